"""Schemas, autograd and the public functions of the categorical divergence and the concrete density.

Backward keeps the inputs alone and makes everything else again: one pass that reads what forward read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._library import define_op
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels.ops.categorical import reference

_TRITON = "dvae_kernels.ops.categorical.triton_kernels"


def _kl_fwd_fake(logits: Tensor, prior: Tensor | None, dim: int) -> Tensor:
    return new_rows(logits, dim, _rng.compute_dtype(logits.dtype))


def _kl_bwd_fake(
    grad: Tensor, logits: Tensor, prior: Tensor | None, dim: int, prior_grad: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits), torch.empty_like(logits) if prior_grad else logits.new_empty((0,))


def _log_prob_fwd_fake(
    y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int
) -> tuple[Tensor, Tensor]:
    density = _kl_fwd_fake(logits, None, dim)
    return density, torch.empty_like(density)


def _log_prob_bwd_fake(
    grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int, tau_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(logits), new_tau_rows(logits, dim, tau_grad)


# `dim` counts from the front; priors and samples have the shape of the logits. Results without `dim` are contiguous.
KL_FWD = define_op(
    "categorical_kl_fwd(Tensor logits, Tensor? prior, int dim) -> Tensor",
    reference=reference.categorical_kl_fwd,
    triton=f"{_TRITON}:categorical_kl_fwd",
    fake=_kl_fwd_fake,
)
# (dlogits, dprior), the second empty unless prior_grad.
KL_BWD = define_op(
    "categorical_kl_bwd(Tensor grad, Tensor logits, Tensor? prior, int dim, bool prior_grad) -> (Tensor, Tensor)",
    reference=reference.categorical_kl_bwd,
    triton=f"{_TRITON}:categorical_kl_bwd",
    fake=_kl_bwd_fake,
)
# The temperature is the tensor `tau` where there is one, else `tau_value`. (The log density less lgamma(count), count):
# the number of categories that are not excluded; plain torch has the lgamma.
_LOG_PROB_FWD = define_op(
    "gumbel_softmax_log_prob_fwd(Tensor y, Tensor logits, Tensor? tau, float tau_value, int dim) -> (Tensor, Tensor)",
    reference=reference.gumbel_softmax_log_prob_fwd,
    triton=f"{_TRITON}:gumbel_softmax_log_prob_fwd",
    fake=_log_prob_fwd_fake,
)
# (dy, dlogits, the rows' parts of dtau, empty unless tau_grad).
_LOG_PROB_BWD = define_op(
    "gumbel_softmax_log_prob_bwd(Tensor grad, Tensor y, Tensor logits, Tensor? tau, float tau_value, int dim, "
    "bool tau_grad) -> (Tensor, Tensor, Tensor)",
    reference=reference.gumbel_softmax_log_prob_bwd,
    triton=f"{_TRITON}:gumbel_softmax_log_prob_bwd",
    fake=_log_prob_bwd_fake,
)


@_autograd.quick_apply
class CategoricalKLFunction(torch.autograd.Function):
    """Forward op with the analytic backward. Forward-mode differentiation is not defined and raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, prior: Tensor | None, dim: int, backend: str) -> Tensor:
        return KL_FWD[backend](logits, prior, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, prior, ctx.dim, ctx.backend = inputs
        ctx.save_for_backward(logits, prior)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, prior = ctx.saved_tensors
        prior_grad = prior is not None and ctx.needs_input_grad[1]
        bwd = KL_BWD["reference" if _autograd.differentiated_twice() else ctx.backend]
        dlogits, dprior = bwd(grad, logits, prior, ctx.dim, prior_grad)
        return dlogits, dprior if prior_grad else None, None, None


@_autograd.quick_apply
class GumbelSoftmaxLogProbFunction(torch.autograd.Function):
    """Forward op with the analytic backward. Forward-mode differentiation is not defined and raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int,
                backend: str) -> tuple[Tensor, Tensor]:  # fmt: skip
        return _LOG_PROB_FWD[backend](y, logits, tau, tau_value, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        y, logits, tau, ctx.tau_value, ctx.dim, ctx.backend = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(y, logits, tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        y, logits, tau = ctx.saved_tensors
        tau_grad = tau is not None and ctx.needs_input_grad[2]
        bwd = _LOG_PROB_BWD["reference" if _autograd.differentiated_twice() else ctx.backend]
        dy, dlogits, dtau_rows = bwd(grad, y, logits, tau, ctx.tau_value, ctx.dim, tau_grad)
        return dy, dlogits, dtau_rows.sum() if tau_grad else None, None, None, None


def categorical_kl(logits: Tensor, dim: int = -1, *, prior: Tensor | None = None, backend: str | None = None) -> Tensor:
    """KL divergence in nats of the categorical distribution softmax(logits) from softmax(prior), or from the uniform
    one over K categories.

    Args:
        logits: unnormalised log probabilities (nats), any shape with the K categories along `dim`; float32, float64,
            bfloat16 or float16 (halves are computed in float32); any strides. -inf excludes a category. Differentiable.
        dim: the dimension of the categories.
        prior: unnormalised log probabilities of the prior, of a shape that broadcasts to that of the logits, with
            their dtype and device. Differentiable.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        sum pi log(pi / m), pi = softmax(logits), m = softmax(prior) or 1 / K, with `dim` removed; float64 for float64,
        else float32. Precise relatively down to zero, where it is the small difference of large entropies.

        Defined everywhere: a category with pi = 0 adds 0 and gets no gradient (K counts it); where m is 0 and pi is
        not, the result is +inf (and the gradient not finite). A row of logits of only -inf is no distribution: NaN,
        without gradient to them; a row with NaN or +inf, in the logits or the prior, is NaN with all its gradients;
        rows without categories give 0, and empty input gives empty output.

    Raises:
        TypeError: for logits or a prior that are not floating-point, a prior of another dtype, and a dim that is not an
            int.
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
    if prior is not None:
        _validate.floating(op, "prior", prior)
        _validate.alike(op, "prior", prior, logits.device, logits.dtype)
        _validate.broadcastable(op, "prior", prior, logits.shape)
        prior = prior.expand(logits.shape)
    backend = _backend.resolve(op, backend, logits.device.type)
    if not _autograd.needs_function(logits, prior):
        return KL_FWD[backend](logits, prior, dim)
    return CategoricalKLFunction.apply(logits, prior, dim, backend)


def gumbel_softmax_log_prob(
    y: Tensor, logits: Tensor, tau: float | Tensor, dim: int = -1, *, backend: str | None = None
) -> Tensor:
    """Log density in nats of the Gumbel-softmax (concrete) distribution at a point `y` of the simplex.

    Args:
        y: relaxed samples, any shape with the K categories along `dim`, each slice along it positive with sum one;
            float32, float64, bfloat16 or float16; any strides. Samples that underflowed to 0 count as the smallest
            normal number of the dtype of the computation (1.2e-38, or 2.2e-308 for float64): entries below it are
            raised to it, and get no gradient. Differentiable.
        logits: unnormalised log probabilities (nats), of a shape that broadcasts to that of `y`, with its device and
            dtype; or half logits of float32 samples, as autocast makes them. -inf excludes a category. Differentiable.
        tau: temperature, a finite number > 0 or a one-element float tensor on the device of the logits, through which
            gradients flow. A tensor's value is not checked: what is not a finite number > 0 gives NaN.
        dim: the dimension of the categories, of `y`.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        log Gamma(K) + (K - 1) log tau + sum_j (l_j - (tau + 1) log y_j) - K log sum_j exp(l_j - tau log y_j), the
        density on the simplex in K - 1 of its coordinates, with `dim` removed; float64 for float64, else float32.

        Defined everywhere: a category with a logit of -inf takes no part, whatever its y, and gets no gradient; K
        counts the others. A row of logits of only -inf is no distribution: NaN, without gradient; a row with NaN in a
        category that takes part, or with a logit of +inf, is NaN with all its gradients; rows without categories give
        0, and empty input gives empty output.

    Raises:
        TypeError: for tensors that are not floating-point or whose dtypes do not go together, and for arguments of a
            wrong type.
        ValueError: for tau <= 0, NaN or infinite, a tensor tau of more than one element, tensors on different devices,
            logits of a shape that does not broadcast to that of `y`, dim out of range, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017 (arXiv:1611.00712), eq. 10; Jang, Gu, Poole,
    "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv:1611.01144), eq. 3 and appendix B.

    Example:
        >>> y = gumbel_softmax(torch.zeros(2, 3), 0.5, seed=0)
        >>> gumbel_softmax_log_prob(y, torch.zeros(3), 0.5).shape
        torch.Size([2])
    """
    op = "gumbel_softmax_log_prob"
    _validate.floating(op, "y", y)
    _validate.floating(op, "logits", logits)
    dim = _validate.dimension(op, y, dim)
    half = logits.dtype in (torch.float16, torch.bfloat16)
    _validate.alike(op, "y", y, logits.device, logits.dtype, *([torch.float32] if half else []))
    _validate.broadcastable(op, "logits", logits, y.shape)
    _validate.temperature(op, "tau", tau, logits.device, positive=True)
    backend = _backend.resolve(op, backend, logits.device.type)

    logits = logits.expand(y.shape)
    tau_tensor, tau_value = _rng.split_temperature(tau, logits.dtype)
    if tau_tensor is None:  # a positive number must stay one in the compute dtype
        tau_value = max(tau_value, torch.finfo(_rng.compute_dtype(logits.dtype)).tiny)
    args = (y, logits, tau_tensor, tau_value, dim)
    if _autograd.needs_function(y, logits, tau_tensor):
        density, count = GumbelSoftmaxLogProbFunction.apply(*args, backend)
    else:
        density, count = _LOG_PROB_FWD[backend](*args)
    return density + torch.where(count == 0, 0, torch.lgamma(count))
