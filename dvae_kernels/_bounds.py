"""Bounds that may be differentiated: the gradient at the bound is 1. That of torch.clamp changed in torch 2.14."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), with the gradient of x at the bound and above, none below; NaN passes through."""
    return torch.where(x < bound, bound, x)


def at_most(x: Tensor, bound: float) -> Tensor:
    """min(x, bound), with the gradient of x at the bound and below, none above; NaN passes through."""
    return torch.where(x > bound, bound, x)


def within(x: Tensor, least: float, most: float) -> Tensor:
    """x at its nearest in [least, most], with the gradient of x there, none outside; NaN passes through."""
    return at_most(at_least(x, least), most)
