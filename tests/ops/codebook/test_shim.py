"""The CUDA kernels of gather_codes, code_sums and code_statistics, compiled by g++ through the host shim."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels import _backend, code_statistics
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.codebook import code_sums, reference
from kit.dtypes import FLOATS, STORAGE, each_dtype
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract
from kit.shim import assert_unbroken, compile_shim, cuda_overloads
from kit.shim import fenced as fenced_memory
from ops.codebook.cases import OPINFO, rows_and_indices, spread

POINTER, INT64 = ctypes.c_void_p, ctypes.c_int64


def fenced(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(a tensor of NaN between fences, the memory that it lies in)."""
    memory = fenced_memory(torch.Size(shape).numel(), dtype)
    return memory[32:-32].view(shape), memory


class Shim:
    """The compiled shim with the signatures of the raw ops; what it writes lies between fences."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.shim_gather_codes.argtypes = (POINTER, ctypes.c_int, *[INT64] * 3, POINTER, INT64, POINTER)
        library.shim_gathers_vectors.argtypes = (POINTER, ctypes.c_int, INT64, INT64)
        library.shim_code_keys.argtypes = (
            POINTER, ctypes.c_int, INT64, INT64, POINTER, INT64, ctypes.c_int32, POINTER,
        )  # fmt: skip
        library.shim_code_counts.argtypes = (POINTER, INT64, ctypes.c_int32, ctypes.c_int, POINTER)
        library.shim_scratch_count.argtypes, library.shim_scratch_count.restype = (INT64,), INT64
        library.shim_code_sums.argtypes = (
            POINTER, ctypes.c_int, INT64, INT64, POINTER, POINTER, INT64, ctypes.c_int32, *[POINTER] * 3,
        )  # fmt: skip

    def gather_codes(self, codebook: Tensor, indices: Tensor) -> Tensor:
        out, memory = fenced(*indices.shape, codebook.shape[1], dtype=codebook.dtype)
        codebook = codebook if codebook.stride(1) == 1 else codebook.contiguous()
        indices = indices.contiguous()
        if out.numel():
            self.library.shim_gather_codes(
                codebook.data_ptr(), STORAGE[codebook.dtype], codebook.shape[0], codebook.stride(0),
                codebook.shape[1], indices.data_ptr(), indices.numel(), out.data_ptr(),
            )  # fmt: skip
        assert_unbroken(memory)
        return out.clone()

    def gathers_vectors(self, codebook: Tensor) -> bool:
        args = (codebook.data_ptr(), STORAGE[codebook.dtype], codebook.stride(0), codebook.shape[1])
        return bool(self.library.shim_gathers_vectors(*args))

    def code_sums(self, x: Tensor, indices: Tensor, num_codes: int) -> Tensor:
        if not x.numel() or not num_codes:
            return torch.zeros(num_codes, x.shape[1], dtype=compute_dtype(x.dtype))
        indices = indices.contiguous()
        keys, memory = fenced(len(x), dtype=torch.int32)
        self.library.shim_code_keys(None, 0, 0, 0, indices.data_ptr(), len(x), num_codes, keys.data_ptr())
        assert_unbroken(memory)
        return self.sums_of_sorted(with_unit_columns(x), keys, num_codes)[0]

    def code_statistics(self, x: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
        rows, columns = x.shape
        if not x.numel() or not num_codes:  # without columns: cuda.cu takes the keys of code_sums
            return reference.code_statistics(x, indices, num_codes)
        x, indices = with_unit_columns(x), indices.contiguous()
        keys, memory = fenced(rows, dtype=torch.int32)
        self.library.shim_code_keys(
            x.data_ptr(), STORAGE[x.dtype], x.stride(0), columns, indices.data_ptr(), rows, num_codes, keys.data_ptr()
        )
        assert_unbroken(memory)
        sums, codes = self.sums_of_sorted(x, keys, num_codes)
        counts, memory = fenced(num_codes, dtype=sums.dtype)
        self.library.shim_code_counts(codes.data_ptr(), rows, num_codes, STORAGE[sums.dtype], counts.data_ptr())
        assert_unbroken(memory)
        return counts.clone(), sums

    def sums_of_sorted(self, x: Tensor, keys: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
        """The sums of the rows by key, and the keys in ascending order."""
        rows, columns = x.shape
        compute = compute_dtype(x.dtype)
        sums, memory = fenced(num_codes, columns, dtype=compute)
        sums.zero_()
        codes, order = keys.sort(stable=True)
        scratch = self.library.shim_scratch_count(rows)
        partial, partial_memory = fenced(scratch, columns, dtype=compute)
        partial_codes, codes_memory = fenced(scratch, dtype=torch.int32)
        self.library.shim_code_sums(
            x.data_ptr(), STORAGE[x.dtype], x.stride(0), columns, order.data_ptr(), codes.data_ptr(), rows, num_codes,
            sums.data_ptr(), partial.data_ptr(), partial_codes.data_ptr(),
        )  # fmt: skip
        for touched in (memory, partial_memory, codes_memory):
            assert_unbroken(touched)
        return sums.clone(), codes


def with_unit_columns(x: Tensor) -> Tensor:
    return x if x.shape[1] == 1 or x.stride(1) == 1 else x.contiguous()


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("codebook"))
    names = ("gather_codes", "code_sums", "code_statistics")
    with cuda_overloads({name: getattr(shim, name) for name in names}):
        yield shim


@pytest.mark.parametrize("case", OPINFO.cases, ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@pytest.mark.parametrize("kind", ["random", "one", "sorted", "skewed", "outside"])
@each_dtype
@pytest.mark.parametrize("columns", [3, 16, 1100])
def test_sums_have_the_bits_of_the_cpu(shim: Shim, kind: str, dtype: torch.dtype, columns: int) -> None:
    if reason := _backend.why_not("cpp", "cpu"):
        pytest.skip(reason)
    rows = 200 if columns > 1000 else 2500
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    indices = spread(rows, 7, kind)
    assert torch.equal(shim.code_sums(x, indices, 7), code_sums(x, indices, 7, "cpp"))


@each_dtype
@pytest.mark.parametrize("shape", [(300, 3, 7), (2300, 16, 7), (70, 1100, 300)], ids=str)
def test_statistics_have_the_bits_of_the_cpu(shim: Shim, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    if reason := _backend.why_not("cpp", "cpu"):
        pytest.skip(reason)
    rows, columns, codes = shape
    for kind in ("one", "outside"):
        x, indices = rows_and_indices(rows, columns, codes, kind, dtype)
        ours, cpu = (code_statistics(x, indices, codes, backend=backend) for backend in ("cuda", "cpp"))
        assert torch.equal(ours.counts, cpu.counts) and torch.equal(ours.sums, cpu.sums)


def test_special_indices(shim: Shim) -> None:
    for dtype in FLOATS:
        for columns in (3, 16):
            codebook = torch.randn(4, columns).to(dtype)
            rows = shim.gather_codes(codebook, torch.tensor([3, -1, -2, 4, 1 << 62, -(1 << 62)]))
            assert torch.equal(rows[0], codebook[3]) and not rows[1].any() and rows[2:].isnan().all()


def test_paths(shim: Shim) -> None:
    """Rows that lie in whole 16-byte words are copied in them."""
    assert shim.gathers_vectors(torch.zeros(3, 4))
    assert shim.gathers_vectors(torch.zeros(3, 8).half())
    assert shim.gathers_vectors(torch.zeros(3, 8)[:, 4:])
    assert not shim.gathers_vectors(torch.zeros(3, 6))
    assert not shim.gathers_vectors(torch.zeros(3, 4).half())
    assert not shim.gathers_vectors(torch.zeros(3, 9)[:, :8])
    assert not shim.gathers_vectors(torch.zeros(25)[1:].view(3, 8))
