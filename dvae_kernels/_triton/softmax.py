"""What kernels of softmax share: temperatures, and rows of nothing but -inf."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def temperature(tau_ptr, tau_value, ACC: tl.constexpr):
    """(tau, 1 / tau): kept finite for tiny tau, 0 for tau = 0, NaN unless tau is a finite number >= 0."""
    tau = tl.full([], tau_value, ACC) if tau_ptr is None else tl.load(tau_ptr)
    # half of the largest number, so that the factor of exp2 is finite too
    largest: tl.constexpr = 8.9e307 if ACC == tl.float64 else 1.7e38
    inverse = tl.where((tau > 0) & (tau < float("inf")), tl.minimum(1.0 / tau, largest), float("nan"))
    return tau, tl.where(tau == 0, 0.0, inverse)


@triton.jit
def exp(x, scale, ACC: tl.constexpr):
    """exp(x * scale)."""
    if ACC == tl.float64:
        return tl.exp(x * scale)
    else:
        return tl.exp2(x * (scale * 1.4426950408889634))


@triton.jit
def inverse_or_zero(total):
    """1 / total, and 0 for a row of only -inf, whose total is 0."""
    return tl.where(total == 0, 0.0, 1.0 / total)


@triton.jit
def or_zero(top):
    """`top`, or 0 for a row of only -inf, where it would give inf - inf."""
    return tl.where(top == float("-inf"), 0.0, top)


def tau_tensor(tensor: Tensor, tau: Tensor | None, tau_value: float) -> Tensor | None:
    """Triton passes a Python float in float32, so a float64 kernel reads it from memory."""
    if tau is None and tensor.dtype == torch.float64:
        return torch.full((), tau_value, dtype=torch.float64, device=tensor.device)
    return tau
