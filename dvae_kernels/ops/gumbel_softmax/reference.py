"""Gumbel-softmax in plain torch: the definition that every backend is tested against.

Traceable, differentiable through torch's own autograd, computed in float64 for float64 and in float32 otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._rng import compute_dtype, gumbel_like


def sample(
    logits: Tensor, key: Tensor, tau: Tensor | float, dim: int, hard: bool, row_offset: int, dtype: torch.dtype
) -> Tensor:
    """y = softmax((logits + G) / tau) along `dim` in `dtype`; `hard` gives onehot(argmax) with the gradient of y."""
    if logits.numel() == 0:
        return logits.to(dtype).clone()
    perturbed = logits.to(compute_dtype(logits.dtype)) + gumbel_like(logits, key, dim, row_offset=row_offset)
    soft, onehot = relax(perturbed, tau, dim)
    # the bracket is exactly zero (or NaN), so the sample stays exactly one-hot
    return (onehot + (soft - soft.detach()) if hard else soft).to(dtype)


def relax(perturbed: Tensor, tau: Tensor | float, dim: int) -> tuple[Tensor, Tensor]:
    """(softmax(perturbed / tau), onehot(argmax)) with every special case defined; differentiable where tau > 0.

    Both are zero in a row of only -inf and NaN in a row with NaN or +inf, or where tau is not a finite number >= 0.
    tau = 0 gives the one-hot sample and no gradient.
    """
    tau = torch.as_tensor(tau, dtype=perturbed.dtype, device=perturbed.device)
    top = perturbed.detach().amax(dim, keepdim=True)
    masked = perturbed == -torch.inf
    # masked entries leave the graph before they meet an infinity, whose derivative would be NaN
    exponent = torch.where(masked, 0, perturbed - torch.where(top == -torch.inf, 0, top))
    safe_tau = torch.where(tau == 0, 1, torch.where((tau > 0) & (tau < torch.inf), tau, torch.nan))
    weight = torch.where(masked, 0 * safe_tau, torch.exp(exponent / safe_tau))
    total = weight.sum(dim, keepdim=True)
    soft = weight / torch.where(top == -torch.inf, 1, total)
    index = perturbed.argmax(dim, keepdim=True)
    onehot = torch.zeros_like(soft).scatter(dim, index, 1.0)
    onehot = torch.where(top == -torch.inf, 0, onehot) + 0 * total.detach()  # + 0 * NaN: the row is NaN
    return torch.where(tau == 0, onehot, soft), onehot


def backward(grad: Tensor, y: Tensor, tau: Tensor | float, dim: int) -> tuple[Tensor, Tensor]:
    """Gradients to the logits and to tau (a scalar) from the relaxed sample y: J_y grad / tau (Jang et al. 2017).

    With (logits + G) / tau = log y + const per row and rows of dlogits summing to zero, dtau = -sum(dlogits * log y).
    A sample rounded to half precision does not sum to one; dividing by its sum keeps <y, grad> a mean, or the gradient
    of a nearly one-hot row would be lost in the difference.
    """
    inverse = _inverse(tau, y)
    total = y.sum(dim, keepdim=True)
    mean = (y * grad).sum(dim, keepdim=True) / torch.where(total == 0, 1, total)
    dlogits = y * (grad - mean) * inverse
    return dlogits, -(dlogits * _log_or_zero(y)).sum()


def double_backward(
    grad: Tensor, y: Tensor, tau: Tensor | float, dim: int, ddlogits: Tensor, ddtau: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `backward` to grad, y and tau, given those of its two results."""
    inverse = _inverse(tau, y)
    centred = grad - (y * grad).sum(dim, keepdim=True)
    cotangent = ddlogits - ddtau * _log_or_zero(y)
    dgrad = y * (cotangent - (y * cotangent).sum(dim, keepdim=True)) * inverse
    dy = (cotangent * centred - grad * (y * cotangent).sum(dim, keepdim=True) - ddtau * centred) * inverse
    dtau = -(cotangent * y * centred).sum() * inverse**2
    return dgrad, dy, dtau


def _inverse(tau: Tensor | float, like: Tensor) -> Tensor:
    """1 / tau, kept finite; 0 for tau = 0 and NaN where tau is not a finite number >= 0."""
    tau = torch.as_tensor(tau, dtype=like.dtype, device=like.device)
    inverse = (1 / tau).clamp(max=torch.finfo(like.dtype).max)
    return torch.where(tau == 0, 0, torch.where((tau > 0) & (tau < torch.inf), inverse, torch.nan))


def _log_or_zero(y: Tensor) -> Tensor:
    """log y, and 0 where y is 0: such an entry has no gradient, whatever its logarithm."""
    return torch.where(y == 0, 0, torch.log(torch.where(y == 0, 1, y)))
