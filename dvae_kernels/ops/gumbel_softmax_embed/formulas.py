"""Formulas that the definition and the composition of ops share."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._indices import NAN


def mark_bad_temperature(indices: Tensor, tau: Tensor | None) -> Tensor:
    """NAN, which makes the embedding NaN, where a tensor tau is not a finite number >= 0."""
    return indices if tau is None else torch.where((tau >= 0) & (tau < torch.inf), indices, NAN)


def as_rows(x: Tensor) -> Tensor:
    """[outer * inner, D] from [outer, D, inner]."""
    return x.transpose(1, 2).flatten(0, 1)
