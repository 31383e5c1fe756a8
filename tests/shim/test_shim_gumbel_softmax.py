"""The CUDA kernels of gumbel_softmax, compiled by g++ through the host shim: the same templates, block shapes and
launch plans as on a GPU, so that indexing, tails, layouts and barriers are tested without one.

Rounding differs a little (the device has its own log2 and exp2); tests/contract on a GPU holds that to account.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contract.harness import Case, assert_keeps_the_contract, noise_key
from contract.ops.gumbel_softmax import CASES
from dvae_kernels import _backend, _rng, gumbel_softmax
from dvae_kernels.ops.gumbel_softmax import reference

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-Icsrc"]
STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
H100_SHARED = 227 << 10


class Call(ctypes.Structure):
    _fields_ = (
        ("ndim", ctypes.c_int),
        ("dim", ctypes.c_int),
        ("sizes", ctypes.c_void_p),
        ("strides", ctypes.c_void_p * 3),
        ("data", ctypes.c_void_p * 3),
        ("storage", ctypes.c_int * 3),
        ("key", ctypes.c_void_p),
        ("row_offset", ctypes.c_uint32),
        ("tau", ctypes.c_void_p),
        ("tau_value", ctypes.c_double),
        ("dtau_rows", ctypes.c_void_p),
        ("shared_limit", ctypes.c_int64),
    )


class Shim:
    """The compiled shim with the signatures of the raw ops."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.library.shim_run.restype = ctypes.c_bool
        self.shared_limit = H100_SHARED

    def fwd(self, logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int, hard: bool,
            row_offset: int, dtype: torch.dtype) -> Tensor:  # fmt: skip
        y = torch.empty_like(logits, dtype=dtype)
        self._run(0, [logits, y], dim, key, row_offset, tau, tau_value, None, hard)
        return y

    def bwd(self, grad: Tensor, y: Tensor, tau: Tensor | None, tau_value: float, dim: int,
            dtype: torch.dtype) -> Tensor:  # fmt: skip
        dlogits = torch.empty_like(y, dtype=dtype)
        self._run(1, [grad, y, dlogits], dim, None, 0, tau, tau_value, None)
        return dlogits

    def recompute_bwd(self, grad: Tensor, logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int,
                      row_offset: int, tau_grad: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
        dlogits = torch.empty_like(logits)
        count = logits.numel() // logits.shape[dim] if tau_grad and logits.numel() else 0
        rows = torch.empty(count, dtype=_rng.compute_dtype(logits.dtype))
        self._run(2, [grad, logits, dlogits], dim, key, row_offset, tau, tau_value, rows if tau_grad else None)
        return dlogits, rows

    def path(self, x: Tensor, y: Tensor, dim: int) -> int:
        """0 for strided rows, 1 for interleaved ones, else the columns per vector chunk."""
        return self.library.shim_path(ctypes.byref(self._call([x, y], dim, None, 0, None, 0.0, None)[0]))

    def _call(self, tensors: list[Tensor], dim: int, key: Tensor | None, row_offset: int, tau: Tensor | None,
              tau_value: float, rows: Tensor | None) -> tuple[Call, list[object]]:  # fmt: skip
        ndim = tensors[0].dim()
        arrays = [(ctypes.c_int64 * max(ndim, 1))(*t.stride()) for t in tensors]
        sizes = (ctypes.c_int64 * max(ndim, 1))(*tensors[0].shape)
        call = Call(ndim, dim, ctypes.cast(sizes, ctypes.c_void_p), row_offset=row_offset, tau_value=tau_value)
        for i, (t, strides) in enumerate(zip(tensors, arrays)):
            call.strides[i], call.data[i] = ctypes.cast(strides, ctypes.c_void_p).value, t.data_ptr()
            call.storage[i] = STORAGE[t.dtype]
        call.key, call.tau, call.dtau_rows = (None if t is None else t.data_ptr() for t in (key, tau, rows))
        call.shared_limit = self.shared_limit
        return call, [sizes, arrays]

    def _run(self, op: int, tensors: list[Tensor], dim: int, key: Tensor | None, row_offset: int,
             tau: Tensor | None, tau_value: float, rows: Tensor | None, hard: bool = False) -> None:  # fmt: skip
        if not tensors[0].numel():
            return
        for tensors_now in (tensors, [t.contiguous() for t in tensors]):
            call, keep = self._call(tensors_now, dim, key, row_offset, tau, tau_value, rows)
            if self.library.shim_run(ctypes.byref(call), op, hard):
                break
        else:
            raise AssertionError("contiguous tensors must collapse")
        del keep
        if tensors_now[-1] is not tensors[-1]:
            tensors[-1].copy_(tensors_now[-1])


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    """The shim, registered as the kernels of the `cuda` overloads for CPU tensors."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no g++ or clang++")
    source = Path(__file__).with_name("gumbel_softmax_shim.cpp")
    headers = [p for p in sorted((ROOT / "csrc").rglob("*")) if p.suffix in (".h", ".cuh")]
    text = b"".join(p.read_bytes() for p in [source, *headers]) + repr((compiler, FLAGS)).encode()
    target = ROOT / "build" / "shim" / f"gumbel_softmax_{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_suffix(".tmp")
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(scratch)], check=True, cwd=ROOT)
        scratch.replace(target)
    kernels = Shim(ctypes.CDLL(str(target)))
    library = torch.library.Library("dvae_kernels", "IMPL")
    for op in ("fwd", "bwd", "recompute_bwd"):
        library.impl(f"gumbel_softmax_{op}.cuda", getattr(kernels, op), "CPU")
    before = _backend._reasons.get(("cuda", "cpu"))
    _backend._reasons["cuda", "cpu"] = ""
    yield kernels
    library._destroy()
    _backend._reasons.pop(("cuda", "cpu"))
    if before is not None:
        _backend._reasons["cuda", "cpu"] = before


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


def guarded_empty_like(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every torch.empty_like lies inside a larger buffer; the returned function checks its surroundings."""
    made: list[tuple[Tensor, Tensor]] = []
    plain = torch.empty_like

    def embedded(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        model = plain(x, dtype=dtype)
        storage = torch.full((model.numel() + 256,), 12345.0, dtype=model.dtype)
        view = storage[128:-128].as_strided(model.shape, model.stride(), 128)
        view.fill_(torch.nan)
        made.append((storage, model))
        return view

    def verify() -> None:
        assert made
        for storage, model in made:
            assert (storage[:128] == torch.tensor(12345.0, dtype=model.dtype)).all(), "written before the output"
            assert (storage[-128:] == torch.tensor(12345.0, dtype=model.dtype)).all(), "written behind the output"
            assert not storage.isnan().any(), "an element was not written"

    monkeypatch.setattr(torch, "empty_like", embedded)
    return verify


SHAPES = [
    ((7, 10), 1), ((3, 64), 1), ((130, 4), 1), ((5, 1024), 1), ((2, 1028), 1), ((2, 1032), 1), ((3, 4099), 1),
    ((2, 6, 33), 1), ((1, 130, 40), 1), ((2, 1500, 5), 1), ((70, 3), 0), ((9, 8), 0),
]  # fmt: skip
PAIRS = [
    (torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16), (torch.bfloat16, torch.float32), (torch.float16, torch.float32),
]  # fmt: skip


@pytest.mark.parametrize("shared_limit", [H100_SHARED, 12 << 10, 4 << 10], ids=["fits", "12K", "4K"])
@pytest.mark.parametrize("shape,dim", SHAPES, ids=str)
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dim: int, shared_limit: int
) -> None:
    """Every dtype pair, with rows that fit in shared memory and rows that do not; nothing else is written."""
    monkeypatch.setattr(shim, "shared_limit", shared_limit)
    key, row_offset = noise_key(3), 5
    tau = torch.tensor(0.75)
    verify = guarded_empty_like(monkeypatch)
    for narrow, wide in PAIRS:
        compute = _rng.compute_dtype(narrow)
        t = tau.to(compute)
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(narrow)
        grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(wide)
        finest = torch.float64
        exact = reference.gumbel_softmax_fwd(logits.double(), key, None, 0.75, dim, False, row_offset, finest)
        onehot = reference.gumbel_softmax_fwd(logits.double(), key, None, 0.75, dim, True, row_offset, finest)
        info = torch.finfo(wide)
        eps = max(info.eps, 2e-5) if wide != torch.float64 else 1e-13
        y = shim.fwd(logits, key, t, 0.0, dim, False, row_offset, wide)
        torch.testing.assert_close(y.double(), exact, rtol=eps, atol=max(1e-9, info.tiny * info.eps))
        assert torch.equal(shim.fwd(logits, key, t, 0.0, dim, True, row_offset, wide).double(), onehot)

        eps = 2 * max(torch.finfo(narrow).eps, 2e-5) if narrow != torch.float64 else 1e-13
        dlogits = reference.gumbel_softmax_bwd(grad.double(), y.double(), None, 0.75, dim, finest)
        result = shim.bwd(grad, y, t, 0.0, dim, narrow)
        torch.testing.assert_close(result.double(), dlogits, rtol=eps, atol=eps * dlogits.abs().max())

        dlogits, parts = reference.gumbel_softmax_recompute_bwd(
            grad.double(), logits.double(), key, None, 0.75, dim, row_offset, True
        )
        result, rows = shim.recompute_bwd(grad, logits, key, t, 0.0, dim, row_offset, True)
        torch.testing.assert_close(result.double(), dlogits, rtol=eps, atol=eps * dlogits.abs().max())
        torch.testing.assert_close(rows.double(), parts, rtol=2e-5, atol=2e-5 if narrow != torch.float64 else 1e-12)
    verify()


def test_paths(shim: Shim) -> None:
    """The layouts that matter take the kernel meant for them."""
    x = torch.zeros(4, 64, 8)
    assert shim.path(x, x, 2) == 4
    assert shim.path(x, x, 1) == 1
    assert shim.path(x.half(), x.half(), 2) == 8
    assert shim.path(x.half(), x, 2) == 8
    assert shim.path(x.double(), x.double(), 2) == 0
    assert shim.path(x[..., 1:], x[..., 1:], 2) == 0
    offset = torch.zeros(65)[1:].view(8, 8)
    assert shim.path(offset, offset.clone(), 1) == 0
    assert shim.path(x.flatten()[:8].view(1, 8), torch.zeros(1, 8), 1) == 4


@pytest.mark.parametrize("shape,dim", [((4, 8), 1), ((4, 7), 1), ((4, 1100), 1), ((8, 6), 0)], ids=str)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("tau", [1.0, 0.0, 1e-40, 3e38, -1.0, float("nan"), float("inf")])
def test_special_values(shim: Shim, shape: tuple[int, int], dim: int, hard: bool, tau: float) -> None:
    """Masks, empty rows, NaN and infinities, for every kind of temperature, as the reference has them."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).movedim(dim, -1)
    logits[0, ::2] = -torch.inf
    logits[1] = -torch.inf
    logits[2, -1] = torch.nan
    logits[3, 1] = torch.inf
    logits = logits.movedim(-1, dim)
    grads = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    results = []
    for backend in ("reference", "cuda"):
        x, t = logits.clone().requires_grad_(), torch.tensor(tau)
        y = gumbel_softmax(x, t, hard, dim=dim, key=noise_key(0), backend=backend)
        (dx,) = torch.autograd.grad(y, x, grads)
        results.append((y.detach(), dx))
    (y, dx), (other_y, other_dx) = results
    torch.testing.assert_close(other_y, y, rtol=1e-5, atol=1e-6, equal_nan=True)
    valid = 0 <= tau < float("inf")
    healthy = torch.full(shape, valid).movedim(dim, -1)
    healthy[2:4] = False
    healthy = healthy.movedim(-1, dim)
    assert (other_dx == 0).all() if tau == 0 else other_dx[~healthy].isnan().all()
    if tau == 0 or tau == 1e-40:
        assert (other_dx[healthy] == 0).all()
    else:
        torch.testing.assert_close(other_dx[healthy], dx[healthy], rtol=1e-5, atol=1e-6)
        if valid:
            assert (other_dx[healthy & logits.isneginf()] == 0).all()


def test_ties_go_to_the_lowest_index(shim: Shim) -> None:
    """Noise is lost beside logits of 1e30, so every column ties."""
    for shape, dim in (((5, 1100), 1), ((1100, 5), 0), ((5, 12), 1), ((5, 7), 1)):
        logits = torch.full(shape, 1e30)
        for hard, tau in ((True, 1.0), (False, 0.0)):
            y = shim.fwd(logits, noise_key(0), None, tau, dim, hard, 0, torch.float32).movedim(dim, -1)
            assert (y[:, 0] == 1).all() and (y[:, 1:] == 0).all()


def test_rows_are_numbered_in_32_bits(shim: Shim) -> None:
    """The last rows of the stream, in every layout of the work."""
    offset = (1 << 32) - 6
    for shape, dim in (((6, 8), 1), ((6, 7), 1), ((2, 9, 3), 1)):
        logits = torch.zeros(shape)
        y = shim.fwd(logits, noise_key(0), None, 1.0, dim, False, offset, torch.float32)
        expected_y = reference.gumbel_softmax_fwd(logits, noise_key(0), None, 1.0, dim, False, offset, torch.float32)
        torch.testing.assert_close(y, expected_y, rtol=1e-5, atol=1e-7)
