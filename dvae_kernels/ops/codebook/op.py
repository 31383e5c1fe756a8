"""Schemas and autograd of gathering and summing codes. The two are each other's derivative, to any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _autograd
from dvae_kernels._library import define_op
from dvae_kernels._rng import compute_dtype
from dvae_kernels.ops.codebook import reference

_TRITON = "dvae_kernels.ops.codebook.triton_kernels"


def _gather_fake(codebook: Tensor, indices: Tensor) -> Tensor:
    return codebook.new_empty((*indices.shape, codebook.shape[1]))


def _sums_fake(x: Tensor, indices: Tensor, num_codes: int) -> Tensor:
    return x.new_empty((num_codes, x.shape[1]), dtype=compute_dtype(x.dtype))


# Rows of the codebook [K, D] by indices [...]: [..., D]. Index -1 gives zeros, any other outside [0, K) NaN.
GATHER_CODES = define_op(
    "gather_codes(Tensor codebook, Tensor indices) -> Tensor",
    reference=reference.gather_codes,
    triton=f"{_TRITON}:gather_codes",
    fake=_gather_fake,
)
# Sums of the rows of x [N, D] by indices [N], in the compute dtype: [num_codes, D].
CODE_SUMS = define_op(
    "code_sums(Tensor x, Tensor indices, SymInt num_codes) -> Tensor",
    reference=reference.code_sums,
    triton=f"{_TRITON}:code_sums",
    fake=_sums_fake,
)


def gather_codes(codebook: Tensor, indices: Tensor, backend: str) -> Tensor:
    """Rows of `codebook` ([K, D]) by int64 `indices` ([...]): [..., D], in the codebook's dtype. Differentiable.

    Index -1 gives zeros and any other index outside [0, K) NaN; neither has a gradient.
    """
    if _autograd.needs_function(codebook):
        return GatherCodesFunction.apply(codebook, indices, backend)
    return GATHER_CODES[backend](codebook, indices)


def code_sums(x: Tensor, indices: Tensor, num_codes: int, backend: str) -> Tensor:
    """Sums of the rows of `x` ([N, D]) by int64 `indices` ([N]): [num_codes, D], in the compute dtype. Differentiable.

    Indices outside [0, num_codes) take no part. The kernels add in one order, fixed by the indices alone: their bits
    are the same for any number of threads and on every device.
    """
    if _autograd.needs_function(x):
        return CodeSumsFunction.apply(x, indices, num_codes, backend)
    return CODE_SUMS[backend](x, indices, num_codes)


@_autograd.quick_apply
class GatherCodesFunction(torch.autograd.Function):
    """gather_codes with code_sums as its derivative. Forward-mode differentiation is not defined and raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(codebook: Tensor, indices: Tensor, backend: str) -> Tensor:
        return GATHER_CODES[backend](codebook, indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        codebook, indices, ctx.backend = inputs
        ctx.num_codes, ctx.dtype = codebook.shape[0], codebook.dtype
        ctx.save_for_backward(indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        args = (grad.reshape(indices.numel(), grad.shape[-1]), indices.reshape(-1), ctx.num_codes)
        twice = _autograd.differentiated_twice()
        sums = code_sums(*args, ctx.backend) if twice else CODE_SUMS[ctx.backend](*args)
        return sums.to(ctx.dtype), None, None


@_autograd.quick_apply
class CodeSumsFunction(torch.autograd.Function):
    """code_sums with gather_codes as its derivative. Forward-mode differentiation is not defined and raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, indices: Tensor, num_codes: int, backend: str) -> Tensor:
        return CODE_SUMS[backend](x, indices, num_codes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, indices, ctx.num_codes, ctx.backend = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (indices,) = ctx.saved_tensors
        # a row that took no part has gradient zero, not NaN
        index = indices.where((indices >= 0) & (indices < ctx.num_codes), -1)
        args = (grad.to(ctx.dtype), index)
        twice = _autograd.differentiated_twice()
        rows = gather_codes(*args, ctx.backend) if twice else GATHER_CODES[ctx.backend](*args)
        return rows, None, None, None
