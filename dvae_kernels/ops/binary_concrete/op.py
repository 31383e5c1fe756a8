"""Autograd and the public functions of the binary concrete distribution.

A sample saves its logits and its key, and backward draws the same noise again: 1 - zeta, which its slope needs, is lost
where zeta is rounded to 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._dtypes import LEAST, compute_dtype, sample_dtype
from dvae_kernels._scalars import split_temperature
from dvae_kernels.ops.binary_concrete.schemas import (
    BINARY_CONCRETE_BWD,
    BINARY_CONCRETE_FWD,
    BINARY_CONCRETE_LOG_PROB_BWD,
    BINARY_CONCRETE_LOG_PROB_FWD,
)


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    tau_value: float
    hard: bool
    index_offset: int
    dtype: torch.dtype
    backend: str


@_autograd.quick_apply
class BinaryConcreteFunction(torch.autograd.Function):
    """The sample with the gradient of the relaxed one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, tau: Tensor | None, key: Tensor, options: _Options) -> Tensor:
        tau_value, hard, index_offset, dtype, backend = options
        return BINARY_CONCRETE_FWD[backend](logits, key, tau, tau_value, hard, index_offset, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, tau, key, ctx.options = inputs
        ctx.save_for_backward(logits, key, tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, key, tau = ctx.saved_tensors
        tau_value, _, index_offset, _, backend = ctx.options
        tau_grad = tau is not None and ctx.needs_input_grad[1]
        bwd = BINARY_CONCRETE_BWD[_autograd.backward_backend(backend)]
        dlogits, dtau_blocks = bwd(grad, logits, key, tau, tau_value, index_offset, tau_grad)
        # NaN has no gradient at tau = 0 either
        dtau = torch.where(tau == 0, 0, dtau_blocks.sum()) if tau_grad else None
        return dlogits, dtau, None, None


@_autograd.quick_apply
class BinaryConcreteLogProbFunction(torch.autograd.Function):
    """The log density."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, backend: str) -> Tensor:
        return BINARY_CONCRETE_LOG_PROB_FWD[backend](y, logits, tau, tau_value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, logits, tau, ctx.tau_value, ctx.backend = inputs
        ctx.save_for_backward(y, logits, tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, logits, tau = ctx.saved_tensors
        tau_grad = tau is not None and ctx.needs_input_grad[2]
        bwd = BINARY_CONCRETE_LOG_PROB_BWD[_autograd.backward_backend(ctx.backend)]
        dy, dlogits, dtau_blocks = bwd(grad, y, logits, tau, ctx.tau_value, tau_grad)
        return dy, dlogits, dtau_blocks.sum() if tau_grad else None, None, None


def binary_concrete(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    index_offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Sample from the binary concrete distribution: sigmoid((logits + L) / tau), L standard logistic noise.

    It relaxes a Bernoulli variable with log odds `logits`, and tends to it as tau goes to 0. The noise is made inside
    the kernel, never stored, always finite, and the same on every device.

    Args:
        logits: log odds of a one (nats), any shape; float32, float64, bfloat16 or float16; any strides, copied only
            where not contiguous. Differentiable.
        tau: temperature, a finite number >= 0 or a one-element float tensor on the device of the logits, through
            which gradients flow. A tensor's value is not checked: negative, NaN or infinite gives NaN. Under
            torch.compile or in a CUDA graph, pass a tensor to anneal without recompiling or recapturing.
        hard: return exact zeros and ones, with the gradient of the relaxed sample (straight-through).
        key: int64[2] = (seed, offset) on the device of the logits, offset taken modulo 2^32: the identity of the
            noise. Equal keys give equal noise, on every backend and device.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from (not under torch.compile(fullgraph=True), as for torch's own
            functions). Without key, seed or generator, torch's default generator of the device is used; then
            torch.func.vmap needs its `randomness`. Under activation checkpointing use that one, which torch restores,
            or a key that nothing changes before backward (else RuntimeError).
        index_offset: number of the first element in the noise stream, so that a shard of a batch draws its own part.
            Elements are numbered in row-major order.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        The sample, with the shape of the logits and the strides of torch.empty_like (the reference's may differ);
        their dtype, or float32 for half logits under autocast.

        Defined everywhere: tau = 0 gives the hard sample and zero gradient; a logit of -inf gives exactly 0 and one of
        +inf exactly 1, without gradient; NaN gives NaN; empty input gives empty output.

    Raises:
        TypeError: for logits or a tensor tau that are not floating-point, and for arguments of a wrong type.
        ValueError: for tau < 0, NaN or infinite, a tensor tau of more than one element or on another device, a key of
            wrong shape or device, a generator of another device type, more than one of key, seed and generator,
            elements beyond 2^64 in the stream, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.
        Nothing is drawn or changed when an error is raised.

    Float32 noise agrees between backends to about 2e-6 (5e-6 beyond |L| = 16), so hard samples can differ only where
    logits + L is closer to 0 than about 1e-5, or than the rounding of logits that are large.

    Source: Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017 (arXiv:1611.00712), section 3.3 and appendix B.

    Example:
        >>> z = binary_concrete(torch.tensor([-torch.inf, 0.0, torch.inf]), hard=True, seed=0)
        >>> z[0].item(), z[2].item()
        (0.0, 1.0)
    """
    op = "binary_concrete"
    _validate.floating(op, "logits", logits)
    device = logits.device
    _validate.temperature(op, "tau", tau, device)
    _validate.boolean(op, "hard", hard)
    _validate.noise_source(op, device, key, seed, generator)
    _validate.index_range(op, index_offset, logits.numel())
    backend = _backend.resolve(op, backend, device.type)

    noise_key = _rng.make_key(device, key, seed, generator)
    temperature = split_temperature(tau, logits)
    if not _autograd.needs_function(logits, temperature.tensor):
        return BINARY_CONCRETE_FWD[backend](
            logits, noise_key, *temperature, hard, _rng.as_int64(index_offset), sample_dtype(logits)
        )
    options = _Options(temperature.value, hard, _rng.as_int64(index_offset), sample_dtype(logits), backend)
    return _autograd.apply_or_forward(
        BinaryConcreteFunction, (logits, temperature.tensor), noise_key, options, borrows_key=key is not None
    )


def binary_concrete_log_prob(y: Tensor, logits: Tensor, tau: float | Tensor, *, backend: str | None = None) -> Tensor:
    """Log density (nats) of every element of `y` under the binary concrete distribution.

    Args:
        y: relaxed samples in [0, 1], any shape and strides; of the dtype of the logits, or float32 for half logits.
            Taken as clamped to [tiny, 1 - eps/2] of the dtype that is computed in (float64 for float64, else float32),
            with no gradient where that changes it. Differentiable.
        logits: log odds of a one (nats); float32, float64, bfloat16 or float16. Broadcasts with y. Differentiable.
        tau: temperature, a finite number > 0 or a one-element float tensor on the device of y, through which gradients
            flow. A tensor's value is not checked: zero, negative, NaN or infinite gives NaN.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        log tau - |t| - 2 log1p(exp(-|t|)) - log y - log(1 - y) with t = tau logit(y) - logits, in the broadcast shape;
        float64 for float64, else float32. -inf for infinite logits, NaN where an argument is NaN.

    Raises:
        TypeError: for y, logits or a tensor tau that are not floating-point, and for arguments of a wrong type.
        ValueError: for tau <= 0, NaN or infinite, a tensor tau of more than one element, tensors on different devices,
            shapes that do not broadcast, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017 (arXiv:1611.00712), appendix B, eq. 18.

    Example:
        >>> binary_concrete_log_prob(torch.tensor([0.1, 0.5]), torch.tensor(0.0), tau=0.5)
        tensor([ 0.0408, -0.6931])
    """
    op = "binary_concrete_log_prob"
    _validate.floating(op, "y", y)
    _validate.floating(op, "logits", logits)
    device = y.device
    _validate.on_device(op, "logits", logits, device)
    if y.dtype not in (logits.dtype, compute_dtype(logits.dtype)):
        expected = _validate.dtype_name(logits.dtype)
        raise TypeError(f"{op}: expected y of dtype {expected} as the logits, got {_validate.dtype_name(y.dtype)}")
    _validate.temperature(op, "tau", tau, device, positive=True)
    y, logits = _validate.broadcast_with_logits(op, "y", y, logits)
    backend = _backend.resolve(op, backend, device.type)

    # a positive number must stay one in the compute dtype
    temperature = split_temperature(tau, logits, least=LEAST[compute_dtype(logits.dtype)])
    return _autograd.apply_or_forward(
        BinaryConcreteLogProbFunction, (y, logits, temperature.tensor), temperature.value, backend
    )
