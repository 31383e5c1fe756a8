"""The CUDA kernels of vector_quantize, compiled by g++ through the host shim, against the reference."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.vector_quantize import reference
from kit.dtypes import STORAGE
from kit.shim import assert_unbroken, compile_shim, fenced

POINTER, INT64, DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
FP32, FP64, FP16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16


class Shim:
    """The compiled shim with the signatures of the raw ops."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.shim_vector_quantize_fwd.argtypes = (*[POINTER] * 3, INT64, INT64, POINTER)
        library.shim_vector_quantize_bwd.argtypes = (*[POINTER] * 5, DOUBLE, DOUBLE, ctypes.c_int)

    @staticmethod
    def arguments(tensors: Sequence[Tensor | None]) -> tuple[ctypes.Array[POINTER], ctypes.Array[ctypes.c_int]]:
        """Addresses and storage types; null where there is no tensor."""
        data = [None if t is None or not t.numel() else t.data_ptr() for t in tensors]
        storage = [0 if t is None or not t.numel() else STORAGE[t.dtype] for t in tensors]
        return (POINTER * len(data))(*data), (ctypes.c_int * len(data))(*storage)

    def fwd(self, x: Tensor, codebook: Tensor, indices: Tensor, keep_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = x.shape
        compute = compute_dtype(x.dtype)
        memory = [
            fenced(rows * columns, x.dtype), fenced(rows * columns * keep_codes, codebook.dtype), fenced(rows, compute),
        ]  # fmt: skip
        outputs = [t[32:-32] for t in memory]
        self.library.shim_vector_quantize_fwd(
            *self.arguments([x, codebook, *outputs]), (INT64 * 3)(rows, columns, codebook.shape[0]), x.stride(0),
            codebook.stride(0), indices.data_ptr(),
        )  # fmt: skip
        assert_unbroken(*memory)
        return outputs[0].view(x.shape), outputs[1].view(-1, columns), outputs[2]

    def bwd(
        self,
        grad: Tensor | None,
        grad_losses: Tensor | None,
        x: Tensor,
        codes: Tensor,
        indices: Tensor,
        commitment_weight: float,
        codebook_weight: float,
        rotation: bool,
        codes_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        rows, columns = x.shape
        memory = fenced(rows * columns, x.dtype), fenced(rows * columns * codes_grad, compute_dtype(x.dtype))
        outputs = [t[32:-32] for t in memory]
        strides = (INT64 * 3)(grad.stride(0) if grad is not None else 0, x.stride(0), codes.stride(0))
        self.library.shim_vector_quantize_bwd(
            *self.arguments([grad, grad_losses, x, codes, *outputs]), (INT64 * 2)(rows, columns), strides,
            indices.data_ptr(), commitment_weight, codebook_weight, rotation,
        )  # fmt: skip
        assert_unbroken(*memory)
        return outputs[0].view(x.shape), outputs[1].view(-1, columns)


@pytest.fixture(scope="module")
def shim() -> Shim:
    return Shim(compile_shim("vector_quantize", device_errors=True))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def aligned(x: Tensor, offset: int = 0) -> Tensor:
    """A copy whose rows lie in a wider matrix, `offset` elements behind a 16-byte address."""
    memory = torch.full((x.shape[0], x.shape[1] + 16), torch.nan, dtype=x.dtype)
    memory[:, offset : offset + x.shape[1]] = x
    return memory[:, offset : offset + x.shape[1]]


def assert_close(ours: Tensor, expected: Tensor) -> None:
    error = {FP64: 1e-12, FP32: 4e-6, FP16: 1e-3, BF16: 8e-3}[ours.dtype]
    torch.testing.assert_close(ours, expected, rtol=error, atol=error, equal_nan=True)


@pytest.mark.parametrize("columns", [1, 8, 37, 64, 160, 1032])
@pytest.mark.parametrize(
    "dtype, book", [(FP32, FP32), (FP64, FP64), (BF16, FP32), (FP16, FP32), (BF16, BF16), (FP16, FP16), (FP32, FP16)]
)
def test_reference(shim: Shim, columns: int, dtype: torch.dtype, book: torch.dtype) -> None:
    rows = 3 if columns > 1000 else 37
    x, codebook = normal(rows, columns, seed=0).to(dtype), aligned(normal(7, columns, seed=1).to(book))
    grad, grad_losses = normal(rows, columns, seed=2).to(dtype), normal(rows, seed=3).to(compute_dtype(dtype))
    indices = torch.arange(rows) % 7
    indices[1::5] = -1
    indices[2::11] = 7
    if rows > 30:
        x[5:8, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        x[8], x[9], codebook[3, columns - 1] = 0, -2 * codebook[indices[9]].to(dtype), torch.nan
    for offset, keep in ((0, True), (1, False)):
        ours = shim.fwd(aligned(x, offset), codebook, indices, keep)
        expected = reference.vector_quantize_fwd(x, codebook, indices, keep)
        for result, wanted in zip(ours[:2], expected[:2]):
            torch.testing.assert_close(result, wanted, rtol=0, atol=0, equal_nan=True)
        assert_close(ours[2], expected[2])
    codes = reference.vector_quantize_fwd(x, codebook, indices, True)[1]
    for grads, weights, flags in (
        ((grad, grad_losses), (0.25, 0.5), (True, True)),
        ((aligned(grad, 1), None), (0.25, 0.5), (True, False)),
        ((grad[:1].expand_as(grad), grad_losses), (0.0, 0.5), (False, False)),
        ((None, grad_losses), (2.0, 0.0), (True, False)),
    ):
        results = shim.bwd(*grads, aligned(x), codes, indices, *weights, *flags)
        for result, wanted in zip(results, reference.vector_quantize_bwd(*grads, x, codes, indices, *weights, *flags)):
            assert_close(result, wanted)
