"""Divergences of posteriors from priors, in nats."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dvae_kernels import _autograd, _validate
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.categorical_kl import categorical_kl

__all__ = ["bernoulli_kl", "categorical_kl"]


def bernoulli_kl(logits: Tensor, prior: Tensor | None = None) -> Tensor:
    """KL divergence in nats of every element: of Bernoulli(sigmoid(logits)) from Bernoulli(sigmoid(prior)).

    Args:
        logits: log odds of a one (nats), any shape; float32, float64, bfloat16 or float16. Differentiable.
        prior: log odds of the prior, of the dtype and on the device of the logits, in a shape that broadcasts to
            theirs; None is 0, a fair coin. Differentiable.

    Returns:
        p log(p / m) + (1 - p) log((1 - p) / (1 - m)) with p = sigmoid(logits) and m = sigmoid(prior), elementwise;
        float64 for float64, else float32. It keeps its relative accuracy near 0 too, where p is close to m. The
        gradient is p (1 - p) (logits - prior) to the logits and m - p to the prior.

        Defined everywhere: infinite logits are p = 0 or 1, without gradient; an infinite prior gives 0 for equal
        logits, else +inf, whose gradient to the logits is infinite; NaN gives NaN.

    Raises:
        TypeError: for tensors that are not floating-point, and a prior of another dtype.
        ValueError: for a prior on another device or of a shape that does not broadcast to that of the logits.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114), the KL term of eq. 3; for
    binary latents, Rolfe, "Discrete Variational Autoencoders", ICLR 2017 (arXiv:1609.02200).

    Example:
        >>> bernoulli_kl(torch.tensor([-torch.inf, 0.0, torch.inf]))
        tensor([0.6931, 0.0000, 0.6931])
    """
    op = "bernoulli_kl"
    _validate.floating(op, "logits", logits)
    compute = compute_dtype(logits.dtype)
    if prior is None:
        prior = logits.new_zeros(())
    else:
        _validate.floating(op, "prior", prior)
        _validate.alike(op, "prior", prior, logits.device, logits.dtype)
        _validate.broadcastable(op, "prior", prior, logits.shape)
    return _autograd.apply(BernoulliKLFunction, logits.to(compute), prior.to(compute).expand(logits.shape))


@_autograd.quick_apply
class BernoulliKLFunction(torch.autograd.Function):
    """The derivative of the formula, by autograd, would cancel where that of the divergence does not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, prior: Tensor) -> Tensor:
        p, q, distance = torch.sigmoid(logits), torch.sigmoid(-logits), logits - prior
        small = distance.abs() < 1  # then differences of logarithms would cancel
        d = torch.where(small, distance, 0)
        one = torch.where(small, torch.log1p(q * torch.expm1(d)), F.logsigmoid(logits) - F.logsigmoid(prior))
        zero = torch.where(small, torch.log1p(p * torch.expm1(-d)), F.logsigmoid(-logits) - F.logsigmoid(-prior))
        terms = torch.where(p == 0, 0, p * one) + torch.where(q == 0, 0, q * zero)
        series = torch.sigmoid(prior) * _excess(one) + torch.sigmoid(-prior) * _excess(zero)
        return torch.where(distance.abs() < 0.25, series, terms)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        logits, prior = ctx.saved_tensors
        p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
        certain = logits.isinf() & (prior.isfinite() | (logits == prior))
        distance = torch.where(certain, 0, logits) - torch.where(certain, 0, prior)
        return grad * p * q * distance, grad * (torch.sigmoid(prior) - p)


def _excess(t: Tensor) -> Tensor:
    """e^t t - e^t + 1 by its series, for |t| < 1/4: as in categorical_kl, the sum of m _excess(log(p / m)) is the
    divergence, from terms that do not cancel."""
    series = torch.full_like(t, 1 / (14 * math.factorial(12)))
    for k in range(11, -1, -1):
        series = series * t + 1 / ((k + 2) * math.factorial(k))
    return t * t * series
