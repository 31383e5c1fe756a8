"""The density of Gumbel-softmax samples in plain torch: the definition that every backend is tested against.

The ops have the signatures of schemas.py. Traceable; computed in float64 for float64, in float32 otherwise. The
backward ops are differentiable themselves: values are masked before they are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._rows import new_rows
from dvae_kernels._scalars import positive_temperature, scalar_tensor


def gumbel_softmax_log_prob_fwd(
    y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int
) -> tuple[Tensor, Tensor]:
    """(the log density less lgamma(count), count), count the number of categories that are not excluded."""
    if logits.numel() == 0:
        zeros = new_rows(logits, dim, compute_dtype(logits.dtype)).zero_()
        return zeros, zeros.clone()
    t = positive_temperature(scalar_tensor(tau, tau_value, logits))
    excluded, _, _, log_y, z, total = _energies(y, logits, t, dim)
    count = (~excluded).sum(dim).to(z.dtype)
    density = (count - 1) * t.log() + torch.where(excluded, 0, z - log_y).sum(dim) - count * total.squeeze(dim).log()
    return torch.where(count == 0, torch.nan, density), count


def gumbel_softmax_log_prob_bwd(
    grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int, tau_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(dy, dlogits, the rows' contributions to dtau)."""
    if logits.numel() == 0:
        return torch.zeros_like(y), torch.zeros_like(logits), grad.new_empty((0,))
    t = positive_temperature(scalar_tensor(tau, tau_value, logits))
    excluded, clamped, y_clamped, log_y, z, total = _energies(y, logits, t, dim)
    grad = grad.to(z.dtype).unsqueeze(dim)
    count = (~excluded).sum(dim, keepdim=True).to(z.dtype)
    # 0 where excluded, but NaN in a row with NaN
    share = torch.where(excluded, 0, z.exp()) / torch.where(total == 0, 1, total)
    dlogits = torch.where(excluded, share, grad * (1 - count * share))
    dy = torch.where(excluded, share, grad * (count * t * share - (t + 1)) / y_clamped)
    dy = torch.where(clamped, 0, dy)
    dtau = grad.new_empty((0,))
    if tau_grad:
        sums = (torch.where(excluded, 0, count * share - 1) * log_y).sum(dim, keepdim=True)
        dtau = torch.where(count == 0, 0, grad * ((count - 1) / t + sums)).reshape(-1)
    return dy.to(y.dtype), dlogits.to(logits.dtype), dtau


def _energies(y: Tensor, logits: Tensor, tau: Tensor, dim: int) -> tuple[Tensor, ...]:
    """(excluded, clamped, y and log y after clamping, z = logits - tau log y less its largest, the sum of exp(z))."""
    x = logits.to(compute_dtype(logits.dtype))
    excluded = x == -torch.inf
    y = y.to(x.dtype)
    smallest = torch.finfo(x.dtype).tiny
    clamped = y < smallest
    y = torch.where(clamped, smallest, y)
    log_y = y.log()
    energy = x - tau * log_y
    top = torch.where(excluded, -torch.inf, energy.detach()).amax(dim, keepdim=True)
    z = torch.where(excluded, 0, energy - torch.where(top == -torch.inf, 0, top))
    return excluded, clamped, y, log_y, z, torch.where(excluded, 0, z.exp()).sum(dim, keepdim=True)
