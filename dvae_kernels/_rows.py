"""Row operations: memory for what there is one of for each row around `dim`. See _rng.py for how rows are numbered."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._rng import compute_dtype


def new_rows(like: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory for one value per row of `like`: its shape without `dim`."""
    return like.new_empty(like.shape[:dim] + like.shape[dim + 1 :], dtype=dtype)


def new_tau_rows(like: Tensor, dim: int, needed: bool) -> Tensor:
    """Uninitialised memory for the rows' parts of the gradient to tau: one per row of `like`, or none."""
    rows = like.numel() // like.shape[dim] if needed and like.numel() else 0
    return like.new_empty((rows,), dtype=compute_dtype(like.dtype))
