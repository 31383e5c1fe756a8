"""The binary concrete distribution in plain torch: the definition that every backend is tested against.

The four ops have the signatures of schemas.py. Traceable and differentiable; computed in float64 for float64, in
float32 otherwise. A value that must not reach a gradient is replaced before a function is taken,
not after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._bounds import within
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._elements import sum_blocks
from dvae_kernels._rng import logistic_like
from dvae_kernels._scalars import inverse_temperature, scalar_tensor

# exp(-1000) is 0 in every dtype: a sample beyond is saturated, and has no gradient.
_SATURATED = 1000.0


def binary_concrete_fwd(
    logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, hard: bool, index_offset: int, dtype: torch.dtype
) -> Tensor:
    """zeta = sigmoid((logits + L) / tau), or 1 where logits + L > 0 and 0 elsewhere; NaN where tau is none."""
    perturbed = logits.to(compute_dtype(logits.dtype)) + logistic_like(logits, key, index_offset=index_offset)
    tau = scalar_tensor(tau, tau_value, perturbed)
    step = torch.where(perturbed.isnan(), perturbed, (perturbed > 0).to(perturbed.dtype))
    result = step if hard else torch.where(tau == 0, step, torch.sigmoid(perturbed / tau))
    return torch.where((tau >= 0) & (tau < torch.inf), result, torch.nan).to(dtype)


def binary_concrete_bwd(
    grad: Tensor,
    logits: Tensor,
    key: Tensor,
    tau: Tensor | None,
    tau_value: float,
    index_offset: int,
    tau_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(dlogits, the blocks' contributions to dtau), from z = (logits + L) / tau and never from a rounded zeta."""
    compute = compute_dtype(logits.dtype)
    perturbed = logits.to(compute) + logistic_like(logits, key, index_offset=index_offset)
    tau = scalar_tensor(tau, tau_value, perturbed)
    divisor = torch.where(tau == 0, 1, tau)
    saturated = (perturbed / divisor).abs() > _SATURATED
    z = torch.where(saturated, 0, perturbed) / divisor
    e = torch.exp(-z.abs())
    slope = torch.where(saturated, 0, e / (1 + e).square()) * inverse_temperature(divisor)
    dlogits = torch.where(tau == 0, 0, grad.to(compute) * slope)
    dtau_blocks = sum_blocks(-dlogits * z, index_offset % 4) if tau_grad else dlogits.new_empty((0,))
    return dlogits.to(logits.dtype), dtau_blocks


def binary_concrete_log_prob_fwd(y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float) -> Tensor:
    """log tau - |t| - 2 log1p(exp(-|t|)) - log y - log(1 - y), t = tau logit(y) - logits, y clamped into (0, 1)."""
    log_y, log_1y, t, tau = _log_odds(_clamped(y, logits), logits, tau, tau_value)
    result = tau.log() - t.abs() - 2 * torch.log1p(torch.exp(-t.abs())) - log_y - log_1y
    return torch.where((tau > 0) & (tau < torch.inf), result, torch.nan)


def binary_concrete_log_prob_bwd(
    grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, tau_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(dy, dlogits, the blocks' contributions to dtau)."""
    inside = _clamped(y, logits)
    log_y, log_1y, t, tau = _log_odds(inside, logits, tau, tau_value)
    valid = (tau > 0) & (tau < torch.inf)
    grad = torch.where(valid, grad.to(inside.dtype), torch.nan)
    tanh = torch.tanh(t / 2)
    kept = inside == y
    middle = torch.where(kept, inside, 0.5)
    dy = grad * (2 * middle - 1 - tau * tanh) / (middle * (1 - middle))
    dy = torch.where(kept, dy, torch.where(valid & ~y.isnan(), 0, torch.nan))
    dlogits = grad * tanh
    dtau_blocks = sum_blocks(grad * (1 / tau - tanh * (log_y - log_1y))) if tau_grad else inside.new_empty((0,))
    return dy.to(y.dtype), dlogits.to(logits.dtype), dtau_blocks


def _clamped(y: Tensor, logits: Tensor) -> Tensor:
    """y in the compute dtype, at its nearest inside (0, 1)."""
    compute = compute_dtype(logits.dtype)
    info = torch.finfo(compute)
    return within(y.to(compute), info.tiny, 1 - info.eps / 2)


def _log_odds(
    inside: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(log y, log(1 - y), t, tau)."""
    tau = scalar_tensor(tau, tau_value, inside)
    log_y, log_1y = inside.log(), torch.log1p(-inside)
    return log_y, log_1y, tau * (log_y - log_1y) - logits.to(inside.dtype), tau
