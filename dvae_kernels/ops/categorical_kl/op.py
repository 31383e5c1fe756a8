"""Autograd and the public function of the categorical divergence.

Backward keeps the inputs alone and makes everything else again: one pass that reads what forward read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _validate
from dvae_kernels.ops.categorical_kl.schemas import CATEGORICAL_KL_BWD, CATEGORICAL_KL_FWD


@_autograd.quick_apply
class CategoricalKLFunction(torch.autograd.Function):
    """Forward op with the analytic backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, prior: Tensor | None, dim: int, backend: str) -> Tensor:
        return CATEGORICAL_KL_FWD[backend](logits, prior, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, prior, ctx.dim, ctx.backend = inputs
        ctx.save_for_backward(logits, prior)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, prior = ctx.saved_tensors
        prior_grad = prior is not None and ctx.needs_input_grad[1]
        bwd = CATEGORICAL_KL_BWD[_autograd.backward_backend(ctx.backend)]
        dlogits, dprior = bwd(grad, logits, prior, ctx.dim, prior_grad)
        return dlogits, dprior if prior_grad else None, None, None


def categorical_kl(logits: Tensor, prior: Tensor | None = None, *, dim: int = -1, backend: str | None = None) -> Tensor:
    """KL divergence in nats of the categorical distribution softmax(logits) from softmax(prior), or from the uniform
    one over K categories.

    Args:
        logits: unnormalised log probabilities (nats), any shape with the K categories along `dim`; float32, float64,
            bfloat16 or float16 (halves are computed in float32); any strides. -inf excludes a category. Differentiable.
        prior: unnormalised log probabilities of the prior, of a shape that broadcasts to that of the logits, with
            their dtype and device. Differentiable.
        dim: the dimension of the categories.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        sum pi log(pi / m), pi = softmax(logits), m = softmax(prior) or 1 / K, with `dim` removed; float64 for float64,
        else float32. Precise relatively down to zero, where it is the small difference of large entropies.

        Defined everywhere: a category with pi = 0 adds 0 and gets no gradient (K counts it); where m is 0 and pi is
        not, the result is +inf (and the gradient not finite). A row of logits of only -inf is no distribution: NaN,
        without gradient to them; a row with NaN or +inf, in the logits or the prior, is NaN with all its gradients;
        rows without categories give 0, and empty input gives empty output.

    Raises:
        TypeError: for logits or a prior that are not floating-point tensors, a prior of another dtype, and a dim that
            is not an int.
        ValueError: for dim out of range, a prior on another device or of a shape that does not broadcast to that of the
            logits, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114), the KL term of eq. 3, for
    the categorical latents of Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017
    (arXiv:1611.01144).

    Example:
        >>> categorical_kl(torch.tensor([0.0, -torch.inf]))
        tensor(0.6931)
        >>> categorical_kl(torch.tensor([0.0, -torch.inf]), prior=torch.tensor([2.0, -torch.inf]))
        tensor(0.)
    """
    op = "categorical_kl"
    _validate.floating(op, "logits", logits)
    dim = _validate.dimension(op, logits, dim)
    if isinstance(prior, int):
        raise TypeError(f"{op}: expected prior to be a Tensor, got {_validate.type_name(prior)} (dim is keyword-only)")
    if prior is not None:
        _validate.floating(op, "prior", prior)
        _validate.alike(op, "prior", prior, logits.device, logits.dtype)
        _validate.broadcastable(op, "prior", prior, logits.shape)
        prior = prior.expand(logits.shape)
    backend = _backend.resolve(op, backend, logits.device.type)
    return _autograd.apply_or_forward(CategoricalKLFunction, (logits, prior), dim, backend)
