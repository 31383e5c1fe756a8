"""Row operations: allocation of one value per row (the shape without `dim`), and rows folded by heads.

See _rng.py for how rows are numbered.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dvae_kernels import _validate
from dvae_kernels._dtypes import compute_dtype


def new_rows(like: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory for one value per row of `like`: its shape without `dim`."""
    return like.new_empty(like.shape[:dim] + like.shape[dim + 1 :], dtype=dtype)


def new_tau_rows(like: Tensor, dim: int, needed: bool) -> Tensor:
    """Uninitialised memory for the rows' contributions to the gradient to tau: one per row of `like`, or none."""
    rows = like.numel() // like.shape[dim] if needed and like.numel() else 0
    return like.new_empty((rows,), dtype=compute_dtype(like.dtype))


def with_unit_columns(x: Tensor) -> Tensor:
    """A matrix whose columns lie next to each other, copied if need be."""
    return x if x.shape[1] <= 1 or x.stride(1) == 1 else x.contiguous()


def columns_last(op: str, x: Tensor, dim: int) -> tuple[Tensor, int]:
    """(x with its columns at `dim` moved to the end, `dim` counted from the front). A scalar has none."""
    if x.dim() == 0:
        return x, 0
    dim = _validate.dimension(op, x, dim)
    return x if dim == x.dim() - 1 else x.movedim(dim, -1), dim


def by_head(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """x as [H, N, D] and the codebook as [H, K, D], with one head where it has none."""
    if codebook.dim() == 2:
        return x.reshape(1, math.prod(x.shape[:-1]), x.shape[-1]), codebook[None]
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]).transpose(0, 1), codebook


def from_heads(values: Tensor, shape: torch.Size) -> Tensor:
    """One value a row, [H, N], in the shape of x without its columns."""
    return values.t().contiguous().view(shape)
