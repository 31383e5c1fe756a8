"""How far a result is from its oracle, and whether a discrete result is the right one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIE = 1e-5  # scores closer than this may be ordered either way in float32


def largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def distance(actual: Tensor, oracle: Tensor) -> float:
    """The largest absolute difference; infinite where one is NaN and the other is not."""
    if not oracle.numel():
        return 0.0
    actual = actual.detach().to("cpu", torch.float64)
    difference = (actual - oracle).abs()
    difference[(actual == oracle) | (actual.isnan() & oracle.isnan())] = 0
    return difference.nan_to_num(math.inf).max().item()


def assert_marks_best(onehot: Tensor, scores: Tensor, dim: int) -> None:
    """Exactly one-hot along `dim`, at the best float64 score or at one closer to it than float32 can tell."""
    onehot = onehot.to("cpu", torch.float64)
    assert ((onehot == 0) | (onehot == 1)).all() and (onehot.sum(dim) == 1).all(), "not exactly one-hot"
    chosen, best = (scores * onehot).sum(dim), scores.amax(dim)
    assert (best - chosen <= TIE).all(), f"missed the best score by up to {largest(best - chosen)}"


def assert_marks_positive(bits: Tensor, odds: Tensor) -> None:
    """Exactly zeros and ones, on the right side of every float64 score that float32 can tell from 0."""
    bits = bits.to("cpu", torch.float64)
    assert ((bits == 0) | (bits == 1)).all(), "not exactly zeros and ones"
    wrong = odds[(bits == 1) != (odds > 0)]
    assert (wrong.abs() <= TIE).all(), f"on the wrong side of 0 by up to {largest(wrong)}"
