"""Smoothing transformations in plain torch: the definition that every backend is tested against.

The four ops have the signatures of schemas.py; what differs between kinds is in kinds.py. Traceable and
differentiable; computed in float64 for float64, in float32 otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._bounds import within
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._elements import sum_blocks
from dvae_kernels._rng import uniform_like
from dvae_kernels.ops.smoothing.kinds import Bit, Density, find


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
    """zeta, NaN where the logits, the noise or beta are not what they should be."""
    bit, beta, valid = _bit(logits, noise, key, beta, beta_value, index_offset)
    return torch.where(valid, find(kind).value(bit, beta), torch.nan).to(dtype)


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
    """(dlogits, dbeta or the blocks' parts of it, dnoise), from the logits and the noise and never from zeta."""
    chosen = find(kind, noise_grad=noise_grad)
    bit, value, valid = _bit(logits, noise, key, beta, beta_value, index_offset)
    grad = torch.where(valid, grad.to(bit.p.dtype), torch.nan)
    dlogits = (grad * chosen.dlogits(bit, value)).to(logits.dtype)
    dbeta = dnoise = grad.new_empty((0,))
    if beta_grad:
        dbeta = _parts(grad * chosen.dbeta(bit, value), beta, index_offset % 4)
    if noise_grad:
        dnoise = grad * chosen.dnoise(bit, value)
    return dlogits, dbeta, dnoise


def smoothing_log_prob_fwd(zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str) -> Tensor:
    """The log density, and for the spike family at zeta = 0 the log mass; -inf outside the support."""
    chosen = find(kind)
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
    """(dzeta, dlogits, dbeta or the blocks' parts of it)."""
    at, value, spike, outside, kept, valid = _point(zeta, logits, beta, beta_value, kind)
    grad = torch.where(valid, grad.to(at.p.dtype), torch.nan)
    dzeta, dlogits, dbeta = find(kind).log_prob_gradient(at, value)
    none = spike | outside
    dzeta = grad * torch.where(none | ~kept, 0, dzeta)
    dlogits = grad * torch.where(spike, -at.p, torch.where(outside, 0, dlogits))
    parts = grad.new_empty((0,))
    if beta_grad:
        parts = _parts(grad * torch.where(none, 0, dbeta), beta)
    return dzeta.to(zeta.dtype), dlogits.to(logits.dtype), parts


def _bit(
    logits: Tensor, noise: Tensor | None, key: Tensor | None, beta: Tensor | None, beta_value: float, index_offset: int
) -> tuple[Bit, Tensor, Tensor]:
    """(the bit, beta, where all of it is a number that it should be)."""
    if (noise is None) == (key is None):
        raise ValueError("expected either noise or a key")
    x = logits.to(compute_dtype(logits.dtype))
    beta, valid = _sharpness(beta, beta_value, x)
    valid = valid & ~x.isnan()
    if noise is not None:
        valid = valid & (noise >= 0) & (noise <= 1)
        e, e1 = noise, 1 - noise
    else:
        assert key is not None
        e, e1 = uniform_like(logits, key, index_offset=index_offset)
    return Bit(x, e, e1), beta, valid


def _point(
    zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str
) -> tuple[Density, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(the point inside the support, beta, where it is the spike, where zeta is outside, where it is as it was, where
    all of it is a number that it should be)."""
    chosen = find(kind)
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
    """(beta in the compute dtype at its nearest in [2^-50, 2^50], whose squares and inverses float32 has, where it is a
    beta)."""
    value = torch.full((), beta_value, dtype=like.dtype, device=like.device) if beta is None else beta
    return within(value, 2.0**-50, 2.0**50), (value > 0) & (value < torch.inf)


def _parts(dbeta: Tensor, beta: Tensor | None, shift: int = 0) -> Tensor:
    """The gradient to beta of every element, or its sums over blocks where beta is one number."""
    return sum_blocks(dbeta, shift) if beta is None or beta.dim() == 0 else dbeta
