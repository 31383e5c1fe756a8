"""Autograd and the public function of the density of Gumbel-softmax samples.

Backward keeps the inputs alone and makes everything else again: one pass that reads what forward read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _validate
from dvae_kernels._dtypes import HALVES, LEAST_NORMAL, compute_dtype
from dvae_kernels._scalars import split_temperature
from dvae_kernels.ops.gumbel_softmax_log_prob.schemas import GUMBEL_SOFTMAX_LOG_PROB_BWD, GUMBEL_SOFTMAX_LOG_PROB_FWD


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    tau_value: float
    dim: int
    backend: str


@_autograd.quick_apply
class GumbelSoftmaxLogProbFunction(torch.autograd.Function):
    """Forward op with the analytic backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, logits: Tensor, tau: Tensor | None, options: _Options) -> tuple[Tensor, Tensor]:
        return GUMBEL_SOFTMAX_LOG_PROB_FWD[options.backend](y, logits, tau, options.tau_value, options.dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        y, logits, tau, ctx.options = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(y, logits, tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        y, logits, tau = ctx.saved_tensors
        tau_value, dim, backend = ctx.options
        tau_grad = tau is not None and ctx.needs_input_grad[2]
        bwd = GUMBEL_SOFTMAX_LOG_PROB_BWD[_autograd.backward_backend(backend)]
        dy, dlogits, dtau_rows = bwd(grad, y, logits, tau, tau_value, dim, tau_grad)
        return dy, dlogits, dtau_rows.sum() if tau_grad else None, None


def gumbel_softmax_log_prob(
    y: Tensor, logits: Tensor, tau: float | Tensor, *, dim: int = -1, backend: str | None = None
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
            gradients flow. A tensor's value is not checked: zero, negative, NaN or infinite gives NaN.
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
    half = logits.dtype in HALVES
    _validate.alike(op, "y", y, logits.device, logits.dtype, *([torch.float32] if half else []))
    _validate.broadcastable(op, "logits", logits, y.shape)
    _validate.temperature(op, "tau", tau, logits.device, positive=True)
    backend = _backend.resolve(op, backend, logits.device.type)

    logits = logits.expand(y.shape)
    # a positive number must stay one in the compute dtype
    temperature = split_temperature(tau, logits, least=LEAST_NORMAL[compute_dtype(logits.dtype)])
    options = _Options(temperature.value, dim, backend)
    density, count = _autograd.apply_or_forward(GumbelSoftmaxLogProbFunction, (y, logits, temperature.tensor), options)
    return density + torch.where(count == 0, 0, torch.lgamma(count))
