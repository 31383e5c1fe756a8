"""ReinMax and Gumbel-Rao in plain torch: the definition that every backend is tested against.

The ops have the signatures of schemas.py. Traceable, and differentiable in grad and logits: values are masked
before anything infinite is formed. Computed in float64 for float64, in float32 otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._rng import exponential_like
from dvae_kernels._scalars import inverse_temperature, scalar_tensor


def reinmax_bwd(grad: Tensor, logits: Tensor, index: Tensor, tau: Tensor | None, tau_value: float, dim: int) -> Tensor:
    """2 J_((pi_tau + D) / 2) grad - J_pi grad / 2, D the one-hot sample (Liu et al. 2023, Algorithm 2)."""
    if logits.numel() == 0:
        return logits.clone()
    t = scalar_tensor(tau, tau_value, logits)
    inverse = inverse_temperature(t)
    x, g = logits.to(t.dtype), grad.to(t.dtype)
    mixture = (_softmax(x, inverse, dim) + _onehot(index, x, dim)) / 2
    result = 2 * _jacobian(mixture, g, dim) - _jacobian(_softmax(x, 1.0, dim), g, dim) / 2
    # NaN also in a row of only -inf where tau is not a temperature
    return torch.where(t == 0, 0, result + 0 * inverse).to(logits.dtype)


def gumbel_rao_bwd(
    grad: Tensor,
    logits: Tensor,
    key: Tensor,
    index: Tensor,
    tau: Tensor | None,
    tau_value: float,
    dim: int,
    draws: int,
    row_offset: int,
) -> Tensor:
    """mean_k J_softmax(s_k / tau) grad / tau, s_k the k-th sample of logits + G given its argmax (Paulus et al. 2021).

    Given that argmax is i, with E exponential noise and Z = sum e^l:
        s_i = log Z - log E_i,    s_j = -log(E_j e^-l_j + E_i / Z).
    Draw k takes noise k + 1 of the key; noise 0 is the forward's.
    """
    if logits.numel() == 0:
        return logits.clone()
    t = scalar_tensor(tau, tau_value, logits)
    inverse = inverse_temperature(t)
    x, g = logits.to(t.dtype), grad.to(t.dtype)
    excluded, chosen = x == -torch.inf, _onehot(index, x, dim) == 1
    log_total = torch.logsumexp(torch.where(excluded.all(dim, keepdim=True), 0, x), dim, keepdim=True)
    deficit = torch.where(excluded, 0, log_total - x)  # -log softmax(l)
    result = torch.zeros_like(x)
    for draw in range(1, draws + 1):
        noise = exponential_like(x, key, dim, row_offset=row_offset, draw=draw)
        own = noise.gather(dim, index.clamp(min=0).unsqueeze(dim)).log()
        gap = torch.logaddexp(own, noise.log() + deficit) - own  # s_i - s_j, never negative
        weight = torch.where(excluded, 0, torch.where(chosen, 1, torch.exp(-gap * inverse)))
        result = result + _jacobian(_normalised(weight, dim), g, dim)
    return torch.where(t == 0, 0, result * (inverse / draws)).to(logits.dtype)


def _softmax(x: Tensor, scale: Tensor | float, dim: int) -> Tensor:
    """softmax(x * scale); 0 in a row of only -inf, NaN in one with NaN or +inf."""
    top = x.detach().amax(dim, keepdim=True)
    excluded = x == -torch.inf
    exponent = torch.where(excluded, 0, x - torch.where(top == -torch.inf, 0, top)) * scale
    return _normalised(torch.where(excluded, 0, torch.exp(exponent)), dim)


def _normalised(weight: Tensor, dim: int) -> Tensor:
    total = weight.sum(dim, keepdim=True)
    return weight / torch.where(total == 0, 1, total)


def _jacobian(y: Tensor, grad: Tensor, dim: int) -> Tensor:
    """J_y grad = y (grad - <y, grad>), J_y the Jacobian of softmax."""
    return y * (grad - (y * grad).sum(dim, keepdim=True))


def _onehot(index: Tensor, like: Tensor, dim: int) -> Tensor:
    """Zeros where there is no index."""
    index = index.unsqueeze(dim)
    return torch.zeros_like(like).scatter(dim, index.clamp(min=0), (index >= 0).to(like.dtype))
