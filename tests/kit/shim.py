"""CUDA kernels as a CPU library: compiled by g++ through the host shim (one thread per block's thread), called by
ctypes, and registered as the `cuda` overloads of CPU tensors, so that the contract runs on them."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels import _backend
from kit.dtypes import STORAGE

ROOT = Path(__file__).parents[2]
FLAGS = [
    "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-Icsrc",
    "-Itests/kit",
]  # fmt: skip
MAX_TENSORS = 5  # kMaxShimTensors
H100_SHARED = 227 << 10


class Call(ctypes.Structure):
    """ShimCall of shim_call.h."""

    _fields_ = (
        ("ndim", ctypes.c_int),
        ("dim", ctypes.c_int),
        ("sizes", ctypes.c_void_p),
        ("strides", ctypes.c_void_p * MAX_TENSORS),
        ("data", ctypes.c_void_p * MAX_TENSORS),
        ("storage", ctypes.c_int * MAX_TENSORS),
        ("key", ctypes.c_void_p),
        ("row_offset", ctypes.c_uint32),
        ("tau", ctypes.c_void_p),
        ("tau_value", ctypes.c_double),
        ("row_parts", ctypes.c_void_p),
        ("shared_limit", ctypes.c_int64),
    )


class ElementCall(ctypes.Structure):
    """ElementShimCall of shim_call.h."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("index_offset", ctypes.c_int64),
        ("data", ctypes.c_void_p * MAX_TENSORS),
        ("storage", ctypes.c_int * MAX_TENSORS),
        ("key", ctypes.c_void_p),
        ("tau", ctypes.c_void_p),
        ("tau_value", ctypes.c_double),
        ("block_sums", ctypes.c_void_p),
    )


def compile_shim(op: str, device_errors: bool = False) -> ctypes.CDLL:
    """shim.cpp of an op as a library, cached by the text that goes into it; `device_errors`: approximate instructions
    are as inexact as the device's may be."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no g++ or clang++")
    source = ROOT / "tests" / "ops" / op / "shim.cpp"
    headers = [
        p for p in sorted([*(ROOT / "csrc").rglob("*"), *Path(__file__).parent.iterdir()]) if p.suffix in (".h", ".cuh")
    ]
    flags = [*FLAGS, "-DDVAE_DEVICE_ERRORS"] if device_errors else FLAGS
    text = b"".join(p.read_bytes() for p in [source, *headers]) + repr((compiler, flags)).encode()
    target = ROOT / "build" / "shim" / f"{op}_{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_suffix(".tmp")
        subprocess.run([compiler, *flags, str(source), "-o", str(scratch)], check=True, cwd=ROOT)
        scratch.replace(target)
    return ctypes.CDLL(str(target))


FENCE = 12345


def fenced(count: int, dtype: torch.dtype) -> Tensor:
    """Memory of NaN (integers: -77) between fences, 16-byte aligned: its elements [32:-32]."""
    memory = torch.full((count + 64,), FENCE, dtype=dtype)
    memory[32:-32] = torch.nan if dtype.is_floating_point else -77
    return memory


def assert_unbroken(*memories: Tensor) -> None:
    for memory in memories:
        fence = torch.tensor(FENCE, dtype=memory.dtype)
        assert (memory[:32] == fence).all() and (memory[-32:] == fence).all(), "written outside"


def address(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


class RowShim:
    """A compiled shim whose functions take a Call; an op's subclass gives them the signatures of its raw ops."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.shared_limit = H100_SHARED

    def call(
        self,
        function: str,
        tensors: list[Tensor],
        dim: int,
        *extra: Any,
        key: Tensor | None = None,
        row_offset: int = 0,
        tau: Tensor | None = None,
        tau_value: float = 0.0,
        row_parts: Tensor | None = None,
    ) -> int:
        """`function` of the library on tensors of one shape, and what it returns."""
        ndim = tensors[0].dim()
        strides = [(ctypes.c_int64 * max(ndim, 1))(*t.stride()) for t in tensors]
        sizes = (ctypes.c_int64 * max(ndim, 1))(*tensors[0].shape)
        call = Call(ndim, dim, ctypes.cast(sizes, ctypes.c_void_p), row_offset=row_offset, tau_value=tau_value)
        for i, t in enumerate(tensors):
            call.strides[i], call.data[i] = ctypes.cast(strides[i], ctypes.c_void_p).value, t.data_ptr()
            call.storage[i] = STORAGE[t.dtype]
        call.key, call.tau, call.row_parts = (None if t is None else t.data_ptr() for t in (key, tau, row_parts))
        call.shared_limit = self.shared_limit
        return int(getattr(self.library, function)(ctypes.byref(call), *extra))

    def run(
        self, function: str, tensors: list[Tensor], dim: int, *extra: Any, outputs: int = 1, **options: Any
    ) -> None:
        """As the extension's host code: on copies where the rows do not collapse; the last `outputs` are written."""
        if not tensors[0].numel():
            return
        if not self.call(function, tensors, dim, *extra, **options):
            copies = [t.contiguous() for t in tensors]
            assert self.call(function, copies, dim, *extra, **options), "contiguous tensors must collapse"
            for tensor, copy in list(zip(tensors, copies))[len(tensors) - outputs :]:
                tensor.copy_(copy)


class ElementShim:
    """As RowShim for elementwise kernels, whose functions take an ElementCall."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def run(
        self,
        function: str,
        tensors: list[Tensor],
        *extra: Any,
        outputs: int = 1,
        key: Tensor | None = None,
        index_offset: int = 0,
        tau: Tensor | None = None,
        tau_value: float = 0.0,
        block_sums: Tensor | None = None,
    ) -> None:
        """On contiguous copies, as the extension's host code; the last `outputs` are written."""
        contiguous = [t.contiguous() for t in tensors]
        call = ElementCall(tensors[0].numel(), index_offset, tau_value=tau_value)
        for i, t in enumerate(contiguous):
            call.data[i], call.storage[i] = t.data_ptr(), STORAGE[t.dtype]
        call.key, call.tau, call.block_sums = (None if t is None else t.data_ptr() for t in (key, tau, block_sums))
        getattr(self.library, function)(ctypes.byref(call), *extra)
        for tensor, written in zip(tensors[-outputs:], contiguous[-outputs:]):
            if written is not tensor:
                tensor.copy_(written)


@contextmanager
def cuda_overloads(ops: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """`ops`, by name of the raw op, are the `cuda` backend of CPU tensors."""
    library = torch.library.Library("dvae_kernels", "IMPL")
    for name, function in ops.items():
        library.impl(f"{name}.cuda", function, "CPU")
    before = _backend._reasons.get(("cuda", "cpu"))
    _backend._reasons["cuda", "cpu"] = ""
    try:
        yield
    finally:
        library._destroy()
        _backend._reasons.pop(("cuda", "cpu"))
        if before is not None:
            _backend._reasons["cuda", "cpu"] = before


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


@contextmanager
def guard_bands(monkeypatch: pytest.MonkeyPatch, shim: RowShim, shared_limit: int) -> Iterator[None]:
    """Row ops with so much shared memory, outputs inside larger buffers that are checked at the end."""
    monkeypatch.setattr(shim, "shared_limit", shared_limit)
    verify = guarded_empty_like(monkeypatch)
    yield
    verify()


def assert_near(actual: Tensor, exact: Tensor, eps: float | None = None) -> None:
    """To `eps` of the largest, for float64 to 1e-13; without it, to two roundings, of no less than 1e-5."""
    if actual.dtype == torch.float64:
        eps = 1e-13
    elif eps is None:
        eps = 2 * max(torch.finfo(actual.dtype).eps, 1e-5)
    torch.testing.assert_close(actual.double(), exact, rtol=eps, atol=eps * exact.abs().max())


# Shapes of row operations, with the dimension of the categories: tails, rows wider than a block, inner dimensions.
SHAPES = [
    ((7, 10), 1), ((3, 64), 1), ((130, 4), 1), ((5, 1024), 1), ((2, 1028), 1), ((2, 1032), 1), ((3, 4099), 1),
    ((2, 6, 33), 1), ((1, 130, 40), 1), ((2, 1500, 5), 1), ((70, 3), 0), ((9, 8), 0),
]  # fmt: skip


def in_every_row_kernel(test: Callable[..., None]) -> Callable[..., None]:
    """`test` for rows that fit in shared memory and rows that do not."""
    limits = pytest.mark.parametrize("shared_limit", [H100_SHARED, 12 << 10, 4 << 10], ids=["fits", "12K", "4K"])
    return limits(pytest.mark.parametrize("shape,dim", SHAPES, ids=str)(test))
