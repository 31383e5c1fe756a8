"""Log-likelihoods of observations under a decoder's distribution, in nats."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dvae_kernels import _validate


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
        TypeError: where an argument is not floating-point, or x of another dtype.
        ValueError: for different shapes or devices.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114), appendix C.1.

    Example:
        >>> bernoulli_log_likelihood(torch.tensor([0.0, -100.0]), torch.tensor([1.0, 1.0]))
        tensor([  -0.6931, -100.0000])
    """
    op = "bernoulli_log_likelihood"
    _validate.floating(op, "logits", logits)
    _validate.floating(op, "x", x)
    _validate.alike(op, "x", x, logits.device, logits.dtype)
    if x.shape != logits.shape:
        raise ValueError(f"{op}: expected x of shape {tuple(logits.shape)}, got {tuple(x.shape)}")
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")
