"""The categorical divergence in plain torch: the definition that every backend is tested against.

The ops have the signatures of schemas.py. Traceable; computed in float64 for float64, in float32 otherwise. The
backward ops are differentiable themselves: values are masked before they are used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._rows import new_rows


def categorical_kl_fwd(logits: Tensor, prior: Tensor | None, dim: int) -> Tensor:
    """KL(pi || m), pi = softmax(logits), m = softmax(prior) or uniform: the sum of m phi(t), t = log(pi / m).

    phi(t) = e^t t - e^t + 1 is never negative and the sum of pi - m is 0, so nothing cancels where pi is close to m; an
    error of e in the normalisation of t enters as e^2 / 2 only.
    """
    if logits.numel() == 0:
        return new_rows(logits, dim, compute_dtype(logits.dtype)).zero_()
    pi, total, x = _softmax(logits, dim)
    m, m_total, u = _softmax(torch.zeros_like(logits) if prior is None else prior, dim)
    impossible = (u == -torch.inf) & (pi > 0)
    t = torch.where(pi == 0, 0, x - u) - (total / torch.where(m_total == 0, 1, m_total)).log()
    series = torch.full_like(t, 1 / (12 * math.factorial(10)))
    for k in range(9, -1, -1):
        series = series * t + 1 / ((k + 2) * math.factorial(k))
    terms = torch.where(t.abs() < 0.125, m * t * t * series, pi * t - pi + m)
    kl = torch.where(pi == 0, m, terms).sum(dim)
    total = total.squeeze(dim)
    kl = torch.where(impossible.any(dim) & (total == total), torch.inf, kl)
    return torch.where(total > 0, kl, torch.nan)


def categorical_kl_bwd(
    grad: Tensor, logits: Tensor, prior: Tensor | None, dim: int, prior_grad: bool
) -> tuple[Tensor, Tensor]:
    """(dlogits, dprior): grad pi (log(pi / m) - KL) and grad (m - pi)."""
    if logits.numel() == 0:
        return torch.zeros_like(logits), torch.zeros_like(logits) if prior_grad else logits.new_empty((0,))
    pi, _, x = _softmax(logits, dim)
    m, _, u = _softmax(torch.zeros_like(logits) if prior is None else prior, dim)
    grad = grad.to(x.dtype).unsqueeze(dim)
    ratio = torch.where(pi == 0, 0, x - u)  # log(pi / m) up to a constant of the row
    dlogits = torch.where(pi == 0, 0, grad * pi * (ratio - (pi * ratio).sum(dim, keepdim=True)))
    dprior = (grad * (m - pi)).to(logits.dtype) if prior_grad else logits.new_empty((0,))
    return dlogits.to(logits.dtype), dprior


def _softmax(logits: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """(softmax, the sum of its weights, the logarithms of its weights): 0 in a row of only -inf."""
    x = logits.to(compute_dtype(logits.dtype))
    top = x.detach().amax(dim, keepdim=True)
    x = x - torch.where(top == -torch.inf, 0, top)
    masked = x == -torch.inf
    weight = torch.where(masked, 0, torch.where(masked, 0, x).exp())
    total = weight.sum(dim, keepdim=True)
    return weight / torch.where(total == 0, 1, total), total, x
