"""Elementwise operations: kernels work on blocks of elements, and return one partial sum per block where a gradient is
one number.

Element i lies in block (i + shift) // BLOCK, with shift = index_offset % 4, so that blocks start on whole counters of
the noise stream (see _rng.py). The same blocks on every backend.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dvae_kernels._dtypes import compute_dtype

BLOCK = 2048


def count_blocks(count: int) -> int:
    """Blocks of `count` elements, enough for every shift."""
    return (count + 3 + BLOCK - 1) // BLOCK


def new_block_sums(like: Tensor, needed: bool) -> Tensor:
    """Uninitialised memory for one number per block of `like`, or none."""
    blocks = count_blocks(like.numel()) if needed else 0
    return torch.empty((blocks,), dtype=compute_dtype(like.dtype), device=like.device)


def new_parameter_gradient(like: Tensor, parameter: Tensor | None, needed: bool) -> Tensor:
    """Uninitialised memory for a parameter's gradient: one value per element if the parameter is a tensor of their
    shape, else one partial sum per block. Empty unless needed."""
    if needed and parameter is not None and parameter.dim() > 0:
        return torch.empty_like(like, dtype=compute_dtype(like.dtype))
    return new_block_sums(like, needed)


def sum_blocks(terms: Tensor, shift: int = 0) -> Tensor:
    """The sum of `terms` over each block."""
    count = terms.numel()
    blocks = count_blocks(count)
    return F.pad(terms.flatten(), (shift, blocks * BLOCK - shift - count)).view(blocks, BLOCK).sum(1)
