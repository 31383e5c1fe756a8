"""Gathering, summing and counting codes in plain torch: the definition that every backend is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._autograd import without_autocast
from dvae_kernels._dtypes import compute_dtype


def gather_codes(codebook: Tensor, indices: Tensor) -> Tensor:
    """Rows of the codebook; zeros for index -1, NaN for any other index outside [0, K)."""
    k = codebook.shape[0]
    zero = codebook.new_zeros((1, codebook.shape[1]))
    with without_autocast(codebook.device):  # which joins in another dtype
        rows = torch.cat([codebook, zero, zero + torch.nan])
    return rows[torch.where(indices == -1, k, torch.where((indices >= 0) & (indices < k), indices, k + 1))]


def code_sums(x: Tensor, indices: Tensor, num_codes: int) -> Tensor:
    """The sum of the rows of x that have each index; rows with an index outside [0, num_codes) take no part."""
    index = torch.where((indices >= 0) & (indices < num_codes), indices, num_codes)
    sums = x.new_zeros((num_codes + 1, x.shape[1]), dtype=compute_dtype(x.dtype))
    return sums.index_add(0, index, x.to(sums.dtype))[:num_codes]


def code_statistics(x: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """(number of rows, their sum) of each code, over the rows that are finite and have an index in [0, num_codes)."""
    takes_part = (indices >= 0) & (indices < num_codes) & x.isfinite().all(1)
    index = indices.where(takes_part, num_codes)
    counts = index.new_zeros((num_codes + 1,)).index_add(0, index, torch.ones_like(index))[:num_codes]
    return counts.to(compute_dtype(x.dtype)), code_sums(x.where(takes_part[:, None], 0), index, num_codes)
