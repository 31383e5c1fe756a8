"""The CUDA kernels of gumbel_softmax, compiled by g++ through the host shim: the same templates, block shapes and
launch plans as on a GPU, so that indexing, tails, layouts and barriers are tested without one.

Rounding differs a little (the device has its own log2 and exp2); tests/contract on a GPU holds that to account.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels import gumbel_softmax
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels.ops.gumbel_softmax import reference
from kit.dtypes import PAIRS
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract, noise_key
from kit.shim import RowShim, assert_near, compile_shim, cuda_overloads, guard_bands, in_every_row_kernel
from ops.gumbel_softmax.cases import CASES


class Shim(RowShim):
    def fwd(self, logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int, hard: bool,
            row_offset: int, dtype: torch.dtype) -> Tensor:  # fmt: skip
        y = torch.empty_like(logits, dtype=dtype)
        self.run("shim_fwd", [logits, y], dim, hard, key=key, row_offset=row_offset, tau=tau, tau_value=tau_value)
        return y

    def bwd(self, grad: Tensor, y: Tensor, tau: Tensor | None, tau_value: float, dim: int,
            dtype: torch.dtype) -> Tensor:  # fmt: skip
        dlogits = torch.empty_like(y, dtype=dtype)
        self.run("shim_bwd", [grad, y, dlogits], dim, tau=tau, tau_value=tau_value)
        return dlogits

    def argmax(self, logits: Tensor, key: Tensor, dim: int, row_offset: int) -> Tensor:
        index = new_rows(logits, dim, torch.int64)
        options = {"tau_value": 1.0, "key": key, "row_offset": row_offset, "row_parts": index}
        self.run("shim_argmax", [logits, logits], dim, outputs=0, **options)
        return index

    def onehot(
        self, logits: Tensor, key: Tensor, dim: int, row_offset: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        y, index = torch.empty_like(logits, dtype=dtype), new_rows(logits, dim, torch.int64)
        options = {"tau_value": 1.0, "key": key, "row_offset": row_offset, "row_parts": index}
        self.run("shim_onehot", [logits, y], dim, **options)
        return y, index

    def recompute_bwd(self, grad: Tensor, logits: Tensor, key: Tensor | None, tau: Tensor | None, tau_value: float,
                      dim: int, row_offset: int, tau_grad: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
        dlogits = torch.empty_like(logits)
        rows = new_tau_rows(logits, dim, tau_grad)
        self.run("shim_recompute_bwd", [grad, logits, dlogits], dim, key=key, row_offset=row_offset, tau=tau,
                 tau_value=tau_value, row_parts=rows if tau_grad else None)  # fmt: skip
        return dlogits, rows

    def path(self, x: Tensor, y: Tensor, dim: int) -> int:
        """0 for strided rows, 1 for interleaved ones, else the columns per vector chunk."""
        return self.call("shim_path", [x, y], dim)


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("gumbel_softmax"))
    ops = {f"gumbel_softmax_{op}": getattr(shim, op) for op in ("fwd", "bwd", "recompute_bwd")}
    with cuda_overloads(ops | {"gumbel_argmax": shim.argmax, "gumbel_onehot": shim.onehot}):
        yield shim


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@in_every_row_kernel
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dim: int, shared_limit: int
) -> None:
    """Every dtype pair, with rows that fit in shared memory and rows that do not; nothing else is written."""
    key, row_offset = noise_key(3), 5
    tau = torch.tensor(0.75)
    with guard_bands(monkeypatch, shim, shared_limit):
        for narrow, wide in PAIRS:
            compute = compute_dtype(narrow)
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
            hard, index = shim.onehot(logits, key, dim, row_offset, wide)
            assert torch.equal(hard.double(), onehot) and torch.equal(index, onehot.argmax(dim))
            assert torch.equal(shim.argmax(logits, key, dim, row_offset), index)

            eps = 2 * max(torch.finfo(narrow).eps, 2e-5)
            dlogits = reference.gumbel_softmax_bwd(grad.double(), y.double(), None, 0.75, dim, finest)
            result = shim.bwd(grad, y, t, 0.0, dim, narrow)
            assert_near(result, dlogits, eps)

            dlogits, parts = reference.gumbel_softmax_recompute_bwd(
                grad.double(), logits.double(), key, None, 0.75, dim, row_offset, True
            )
            result, rows = shim.recompute_bwd(grad, logits, key, t, 0.0, dim, row_offset, True)
            assert_near(result, dlogits, eps)
            torch.testing.assert_close(rows.double(), parts, rtol=2e-5, atol=2e-5 if narrow != torch.float64 else 1e-12)


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
