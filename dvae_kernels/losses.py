"""Likelihoods and divergences of discrete VAEs, in nats. Sum them over latents and pixels to get an ELBO."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dvae_kernels import _validate
from dvae_kernels._rng import compute_dtype


def categorical_kl(logits: Tensor, dim: int = -1) -> Tensor:
    """KL divergence in nats of the categorical distribution softmax(logits) from the uniform one over K categories.

    Args:
        logits: unnormalised log probabilities (nats), any shape with the K categories along `dim`; float32, float64,
            bfloat16 or float16 (halves are computed in float32). -inf excludes a category. Differentiable.
        dim: the dimension of the categories.

    Returns:
        log K - H(softmax(logits)), between 0 and log K, with `dim` removed; float64 for float64, else float32.
        NaN for a row with NaN or +inf or of only -inf, which is no distribution.

    Raises:
        TypeError: for logits that are not floating-point or a dim that is not an int.
        ValueError: for dim out of range.

    Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv:1611.01144), the
    KL term of the VAE bound under a uniform prior.

    Example:
        >>> categorical_kl(torch.tensor([0.0, -torch.inf]))
        tensor(0.6931)
    """
    _validate.floating("categorical_kl", "logits", logits)
    dim = _validate.dimension("categorical_kl", logits, dim)
    log_q = torch.log_softmax(logits, dim, dtype=compute_dtype(logits.dtype))
    # 0 log 0 = 0; masked before the product, whose derivative would be NaN
    negentropy = (log_q.exp() * log_q.masked_fill(log_q == -torch.inf, 0)).sum(dim)
    return negentropy + math.log(max(logits.shape[dim], 1))


def bernoulli_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """Log-likelihood in nats of every element of `x` under Bernoulli(sigmoid(logits)).

    Args:
        logits: log odds of a one (nats), any shape, finite; floating-point. Differentiable.
        x: observations of the same shape and dtype: 0 or 1, or values between, which give the cross-entropy.
            Differentiable.

    Returns:
        x log sigmoid(logits) + (1 - x) log sigmoid(-logits), elementwise, never overflowing, in the dtype of the
        logits (float32 for halves under autocast).

    Raises:
        TypeError: where an argument is not floating-point.
        ValueError: for different shapes.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114), appendix C.1.
    """
    op = "bernoulli_log_likelihood"
    _validate.floating(op, "logits", logits)
    _validate.floating(op, "x", x)
    if x.shape != logits.shape:
        raise ValueError(f"{op}: expected x of shape {tuple(logits.shape)}, got {tuple(x.shape)}")
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")
