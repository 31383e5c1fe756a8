"""Smoothing transformations in plain torch: the definition that every backend is tested against.

The four ops have the signatures of schemas.py; the kinds are in kinds.py. Traceable and differentiable; computed in
float64 for float64, in float32 otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._bounds import within
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._elements import sum_blocks
from dvae_kernels._rng import uniform_like
from dvae_kernels._scalars import scalar_tensor
from dvae_kernels.ops.smoothing.kinds import Bit, Density, find_kind


def smoothing_fwd(
    logits: Tensor,
    noise: Tensor | None,
    key: Tensor | None,
    beta: Tensor | None,
    beta_value: float,
    kind: str,
    index_offset: int,
    dtype: torch.dtype,
) -> Tensor:
    """zeta; NaN where a logit is NaN, noise is outside [0, 1], or beta is no finite number > 0."""
    bit, beta, valid = _bit(logits, noise, key, beta, beta_value, index_offset)
    return torch.where(valid, find_kind(kind).value(bit, beta), torch.nan).to(dtype)


def smoothing_bwd(
    grad: Tensor,
    logits: Tensor,
    noise: Tensor | None,
    key: Tensor | None,
    beta: Tensor | None,
    beta_value: float,
    kind: str,
    index_offset: int,
    beta_grad: bool,
    noise_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dlogits, dbeta or one partial sum of it per block, dnoise), from the logits and the noise, never from zeta."""
    chosen = find_kind(kind, noise_grad=noise_grad)
    bit, value, valid = _bit(logits, noise, key, beta, beta_value, index_offset)
    grad = torch.where(valid, grad.to(bit.p.dtype), torch.nan)
    slopes = chosen.gradient(bit, value)
    dlogits = (grad * next(slopes)).to(logits.dtype)
    dbeta = dnoise = grad.new_empty((0,))
    if beta_grad or noise_grad:
        slope = next(slopes)
        dbeta = _beta_gradient(grad * slope, beta, index_offset % 4) if beta_grad else dbeta
    if noise_grad:
        dnoise = grad * next(slopes)
    return dlogits, dbeta, dnoise


def smoothing_log_prob_fwd(zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str) -> Tensor:
    """The log density, and for the spike family at zeta = 0 the log mass; -inf outside the support."""
    chosen = find_kind(kind)
    at, beta, spike, outside, _, valid = _point(zeta, logits, beta, beta_value, kind)
    result = chosen.log_prob(at, beta)
    result = torch.where(spike, at.log_q, torch.where(outside, -torch.inf, result))
    return torch.where(valid, result, torch.nan)


def smoothing_log_prob_bwd(
    grad: Tensor,
    zeta: Tensor,
    logits: Tensor,
    beta: Tensor | None,
    beta_value: float,
    kind: str,
    beta_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dzeta, dlogits, dbeta or one partial sum of it per block)."""
    at, value, spike, outside, kept, valid = _point(zeta, logits, beta, beta_value, kind)
    grad = torch.where(valid, grad.to(at.p.dtype), torch.nan)
    dzeta, dlogits, dbeta = find_kind(kind).log_prob_gradient(at, value)
    none = spike | outside
    dzeta = grad * torch.where(none | ~kept, 0, dzeta)
    dlogits = grad * torch.where(spike, -at.p, torch.where(outside, 0, dlogits))
    dbeta = _beta_gradient(grad * torch.where(none, 0, dbeta), beta) if beta_grad else grad.new_empty((0,))
    return dzeta.to(zeta.dtype), dlogits.to(logits.dtype), dbeta


def _bit(
    logits: Tensor, noise: Tensor | None, key: Tensor | None, beta: Tensor | None, beta_value: float, index_offset: int
) -> tuple[Bit, Tensor, Tensor]:
    """(the bit, beta, where all arguments are valid)."""
    if (noise is None) == (key is None):
        raise ValueError("expected either noise or a key")
    x = logits.to(compute_dtype(logits.dtype))
    beta, valid = _sharpness(beta, beta_value, x)
    valid = valid & ~x.isnan()
    if noise is not None:
        valid = valid & (noise >= 0) & (noise <= 1)
        eps, rest = noise, 1 - noise
    else:
        assert key is not None
        eps, rest = uniform_like(logits, key, index_offset=index_offset)
    return Bit(x, eps, rest), beta, valid


def _point(
    zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str
) -> tuple[Density, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(the point inside the support, beta, where zeta is the spike, where it is outside the support, where it was not
    moved, where all arguments are valid)."""
    chosen = find_kind(kind)
    x = logits.to(compute_dtype(logits.dtype))
    zeta = zeta.to(x.dtype)
    beta, valid = _sharpness(beta, beta_value, x)
    valid = valid & ~x.isnan() & ~zeta.isnan()
    spike = zeta == 0 if chosen.spike else torch.zeros_like(zeta, dtype=torch.bool)
    if chosen.whole_line:
        outside = zeta.isinf()
        inside = torch.where(outside, 0, zeta)
    else:
        info = torch.finfo(x.dtype)
        outside = (zeta < 0) | (zeta > 1)
        inside = within(zeta, info.tiny, 1 - info.eps / 2)
    return Density(inside, x), beta, spike, outside, inside == zeta, valid


def _sharpness(beta: Tensor | None, beta_value: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """(beta at its nearest in [2^-50, 2^50], where float32 holds its square and its inverse; where beta is valid)."""
    value = scalar_tensor(beta, beta_value, like)
    return within(value, 2.0**-50, 2.0**50), (value > 0) & (value < torch.inf)


def _beta_gradient(dbeta: Tensor, beta: Tensor | None, shift: int = 0) -> Tensor:
    """The gradient to beta of every element, or its sums over blocks where beta is one number."""
    return sum_blocks(dbeta, shift) if beta is None or beta.dim() == 0 else dbeta
