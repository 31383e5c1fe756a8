"""Arguments that are a number or a tensor, inside Triton kernels: `tau_ptr` where there is one, else `tau_value`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def scalar_tensor(like: Tensor, tensor: Tensor | None, value: float) -> Tensor | None:
    """Triton passes a Python float in float32, so a kernel over float64 reads the number from memory."""
    if tensor is None and like.dtype == torch.float64:
        return torch.full((), value, dtype=torch.float64, device=like.device)
    return tensor


@triton.jit
def temperature(tau_ptr, tau_value, ACC: tl.constexpr):
    """(tau, 1 / tau): kept finite for tiny tau, 0 for tau = 0, NaN unless tau is a finite number >= 0."""
    tau = tl.full([], tau_value, ACC) if tau_ptr is None else tl.load(tau_ptr)
    # half of the largest number, so that the factor of exp2 is finite too
    largest: tl.constexpr = 8.9e307 if ACC == tl.float64 else 1.7e38
    inverse = tl.where((tau > 0) & (tau < float("inf")), tl.minimum(1.0 / tau, largest), float("nan"))
    return tau, tl.where(tau == 0, 0.0, inverse)


@triton.jit
def positive_temperature(tau_ptr, tau_value, ACC: tl.constexpr):
    """tau, and NaN unless it is a finite number > 0."""
    tau = tl.full([], tau_value, ACC) if tau_ptr is None else tl.load(tau_ptr)
    return tl.where((tau > 0) & (tau < float("inf")), tau, float("nan"))
