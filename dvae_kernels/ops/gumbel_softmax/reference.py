"""Gumbel-softmax in plain torch: the definition that every backend is tested against.

The ops have the signatures of schemas.py. Traceable; computed in float64 for float64, in float32 otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._indices import NAN, NONE
from dvae_kernels._rng import gumbel_like
from dvae_kernels._rows import new_rows
from dvae_kernels._scalars import inverse_temperature, scalar_tensor


def gumbel_softmax_fwd(
    logits: Tensor,
    key: Tensor | None,
    tau: Tensor | None,
    tau_value: float,
    dim: int,
    hard: bool,
    row_offset: int,
    dtype: torch.dtype,
) -> Tensor:
    """y = softmax((logits + G) / tau) along `dim`, or onehot(argmax(logits + G)); without a key G is 0."""
    if logits.numel() == 0:
        return logits.to(dtype).clone()
    perturbed = logits.to(compute_dtype(logits.dtype))
    if key is not None:
        perturbed = perturbed + gumbel_like(logits, key, dim, row_offset=row_offset)
    return relax(perturbed, scalar_tensor(tau, tau_value, perturbed), dim, hard).to(dtype)


def gumbel_softmax_bwd(
    grad: Tensor, y: Tensor, tau: Tensor | None, tau_value: float, dim: int, dtype: torch.dtype
) -> Tensor:
    """dlogits from the relaxed sample."""
    compute = compute_dtype(y.dtype)
    grad, y = grad.to(compute), y.to(compute)
    return dlogits_from_sample(grad, y, scalar_tensor(tau, tau_value, y), dim).to(dtype)


def gumbel_softmax_recompute_bwd(
    grad: Tensor,
    logits: Tensor,
    key: Tensor | None,
    tau: Tensor | None,
    tau_value: float,
    dim: int,
    row_offset: int,
    tau_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(dlogits, the rows' contributions to dtau) from the relaxed sample of the logits and the key, if any."""
    compute = compute_dtype(logits.dtype)
    grad = grad.to(compute)
    y = gumbel_softmax_fwd(logits, key, tau, tau_value, dim, False, row_offset, compute)
    dlogits = dlogits_from_sample(grad, y, scalar_tensor(tau, tau_value, y), dim)
    dtau_rows = dtau_from_sample(dlogits, y, dim).reshape(-1) if tau_grad else grad.new_empty((0,))
    return dlogits.to(logits.dtype), dtau_rows


def gumbel_argmax(logits: Tensor, key: Tensor, dim: int, row_offset: int) -> Tensor:
    """argmax(logits + G) along `dim`; NONE in a row of only -inf, NAN in one with NaN or +inf."""
    if logits.numel() == 0:
        return new_rows(logits, dim, torch.int64).fill_(NONE)
    perturbed = logits.to(compute_dtype(logits.dtype)) + gumbel_like(logits, key, dim, row_offset=row_offset)
    top = perturbed.amax(dim)
    index = torch.where(top == -torch.inf, NONE, perturbed.argmax(dim))
    return torch.where(top < torch.inf, index, NAN)


def gumbel_onehot(logits: Tensor, key: Tensor, dim: int, row_offset: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(the hard sample, its index as from gumbel_argmax)."""
    sample = gumbel_softmax_fwd(logits, key, None, 1.0, dim, True, row_offset, dtype)
    return sample, gumbel_argmax(logits, key, dim, row_offset)


def relax(perturbed: Tensor, tau: Tensor, dim: int, hard: bool) -> Tensor:
    """softmax(perturbed / tau), or onehot(argmax), with every special case defined.

    Zero in a row of only -inf; NaN in a row with NaN or +inf, or where tau is not a finite number >= 0. tau = 0 gives
    the one-hot sample. Equal maxima go to the lowest index.
    """
    top = perturbed.detach().amax(dim, keepdim=True)  # it cancels
    onehot = torch.zeros_like(perturbed).scatter(dim, perturbed.argmax(dim, keepdim=True), 1.0)
    if hard:
        result = onehot
    else:
        # subtracted before it is divided, so that a tiny tau cannot overflow
        weight = torch.exp((perturbed - top) / tau)
        result = torch.where(tau == 0, onehot, weight / weight.sum(dim, keepdim=True))
    result = torch.where(top == -torch.inf, 0, result)
    return torch.where((top < torch.inf) & (tau >= 0) & (tau < torch.inf), result, torch.nan)


def dlogits_from_sample(grad: Tensor, y: Tensor, tau: Tensor, dim: int) -> Tensor:
    """J_y grad / tau, J_y the Jacobian of softmax (Jang et al. 2017); 0 for tau = 0.

    A sample rounded to half precision does not sum to one; dividing by its sum keeps <y, grad> a mean, or the gradient
    of a nearly one-hot row would be lost in the difference.
    """
    total = y.sum(dim, keepdim=True)
    mean = (y * grad).sum(dim, keepdim=True) / torch.where(total == 0, 1, total)
    return torch.where(tau == 0, 0, y * (grad - mean) * inverse_temperature(tau))


def dtau_from_sample(dlogits: Tensor, y: Tensor, dim: int) -> Tensor:
    """The rows' contributions to the gradient to tau, -sum(dlogits * (logits + G)) / tau: reduced along `dim`.

    (logits + G) / tau is log y up to a constant of the row, which drops out since the rows of dlogits sum to zero.
    """
    return -(dlogits * _log_or_zero(y)).sum(dim)


def double_backward(
    grad: Tensor, y: Tensor, tau: Tensor, dim: int, ddlogits: Tensor, ddtau: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to grad, y and tau of (dlogits_from_sample, the sum of dtau_from_sample), given those of the two."""
    compute, grad_dtype, y_dtype = compute_dtype(y.dtype), grad.dtype, y.dtype
    grad, y, ddlogits = grad.to(compute), y.to(compute), ddlogits.to(compute)
    inverse = inverse_temperature(tau)
    centred = grad - (y * grad).sum(dim, keepdim=True)
    cotangent = ddlogits - ddtau * _log_or_zero(y)
    dgrad = y * (cotangent - (y * cotangent).sum(dim, keepdim=True)) * inverse
    dy = (cotangent * centred - grad * (y * cotangent).sum(dim, keepdim=True) - ddtau * centred) * inverse
    dtau = -(cotangent * y * centred).sum() * inverse**2
    return dgrad.to(grad_dtype), dy.to(y_dtype), dtau


def _log_or_zero(y: Tensor) -> Tensor:
    """log y, and 0 where y is 0: that entry has no gradient, whatever its logarithm."""
    return torch.where(y == 0, 0, torch.log(torch.where(y == 0, 1, y)))
