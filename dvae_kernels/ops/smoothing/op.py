"""Autograd and the public functions of the smoothing transformations.

A sample saves its logits, its noise or key, and beta; backward makes everything else again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._dtypes import compute_dtype, sample_dtype
from dvae_kernels._scalars import split_sharpness
from dvae_kernels._warnings import warn_once
from dvae_kernels.ops.smoothing import kinds
from dvae_kernels.ops.smoothing.schemas import (
    SMOOTHING_BWD,
    SMOOTHING_FWD,
    SMOOTHING_LOG_PROB_BWD,
    SMOOTHING_LOG_PROB_FWD,
)

# The kinds by name. Each tells about its samples and gradients, its origin, and its typical betas.
SMOOTHING_KINDS = kinds.KINDS


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    beta_value: float
    kind: str
    index_offset: int
    dtype: torch.dtype
    backend: str


@_autograd.quick_apply
class SmoothingFunction(torch.autograd.Function):
    """The sample."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, noise: Tensor | None, beta: Tensor | None, key: Tensor | None,
                options: _Options) -> Tensor:  # fmt: skip
        beta_value, kind, index_offset, dtype, backend = options
        return SMOOTHING_FWD[backend](logits, noise, key, beta, beta_value, kind, index_offset, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, noise, beta, key, ctx.options = inputs
        ctx.save_for_backward(logits, noise, key, beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, noise, key, beta = ctx.saved_tensors
        beta_value, kind, index_offset, _, backend = ctx.options
        noise_grad = noise is not None and ctx.needs_input_grad[1]
        beta_grad = beta is not None and ctx.needs_input_grad[2]
        bwd = SMOOTHING_BWD[_autograd.backward_backend(backend)]
        dlogits, dbeta, dnoise = bwd(
            grad, logits, noise, key, beta, beta_value, kind, index_offset, beta_grad, noise_grad
        )
        return dlogits, dnoise if noise_grad else None, _total(dbeta, beta) if beta_grad else None, None, None


@_autograd.quick_apply
class SmoothingLogProbFunction(torch.autograd.Function):
    """The log density."""

    generate_vmap_rule = True

    @staticmethod
    def forward(zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str,
                backend: str) -> Tensor:  # fmt: skip
        return SMOOTHING_LOG_PROB_FWD[backend](zeta, logits, beta, beta_value, kind)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        zeta, logits, beta, ctx.beta_value, ctx.kind, ctx.backend = inputs
        ctx.save_for_backward(zeta, logits, beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        zeta, logits, beta = ctx.saved_tensors
        beta_grad = beta is not None and ctx.needs_input_grad[2]
        bwd = SMOOTHING_LOG_PROB_BWD[_autograd.backward_backend(ctx.backend)]
        dzeta, dlogits, dbeta = bwd(grad, zeta, logits, beta, ctx.beta_value, ctx.kind, beta_grad)
        return dzeta, dlogits, _total(dbeta, beta) if beta_grad else None, None, None, None


def _total(dbeta: Tensor, beta: Tensor) -> Tensor:
    """The gradient to beta, in its shape, from the result of a backward op."""
    return dbeta if beta.dim() else dbeta.sum()


def _warn_of_gradient(kind: type[kinds.Kind], beta: float | Tensor) -> None:
    """Once a process and reason. The value of a tensor is looked at where that waits for no device: on the CPU."""
    if not (kind.vanishes_at_one or kind.unbounded_slope):
        return
    if isinstance(beta, Tensor):
        if type(beta) is not Tensor or beta.device.type != "cpu" or beta.numel() != 1 or _autograd.transformed():
            return
        beta = beta.item()
    if kind.vanishes_at_one and beta <= 1:
        message = f"the gradient of {kind.name} to the logits is zero at beta = 1 and changes sign below"
        warn_once("smoothing_transform", "beta <= 1", message, stacklevel=4)
    if kind.unbounded_slope and beta > 8:
        lost = 2.0 ** (-24 / beta)
        message = (
            f"the gradient of {kind.name} to the logits has no second moment; at this beta {lost:.0%} of it lies below "
            "the clamp at 2^-24 and is lost"
        )
        warn_once("smoothing_transform", "beta > 8", message, stacklevel=4)


def smoothing_transform(
    logits: Tensor,
    beta: float | Tensor,
    kind: str = "power",
    *,
    noise: Tensor | None = None,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    index_offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Sample relaxed bits zeta = f(beta, sigmoid(logits), noise) that become exact ones, with probability
    sigmoid(logits), and zeros as beta grows.

    The noise is made inside the kernel, never stored, and the same on every device; or it is passed in. Backward makes
    everything again from the logits. For the formulas, the choice of a kind and the singular places see the README of
    the op; "power", "spike_power" and "spike_rational" have gradients of small variance.

    Args:
        logits: log odds of a one (nats), any shape; float32, float64, bfloat16 or float16; any strides, copied only
            where not contiguous. Differentiable.
        beta: sharpness, a finite number > 0, or a float tensor on the device of the logits that has one element or
            broadcasts to their shape, through which gradients flow. Taken at its nearest in [2^-50, 2^50]. A tensor's
            values are not checked: zero, negative, NaN or infinite gives NaN in its elements and their gradients. Under
            torch.compile or in a CUDA graph, pass a tensor to anneal without recompiling or recapturing.
        kind: one of SMOOTHING_KINDS. Those named "spike_..." are exactly 0, without gradient, where
            noise <= 1 - sigmoid(logits), and rise to 1 from there; "power" and "root" rise continuously from 0 to 1;
            those named "..._mixture" are overlapping mixtures, "logistic_mixture" of the whole line. The gradient of
            "power_mixture" is implicit: at fixed values of the mixture's distribution function, not of the noise.
        noise: uniform noise to use in place of the stream's, of the dtype of the logits (or float32 for half logits),
            on their device, that broadcasts to their shape; values in [0, 1], others give NaN. Differentiable, but not
            for "power_mixture".
        key: int64[2] = (seed, offset) on the device of the logits, offset taken modulo 2^32: the identity of the
            noise. Equal keys give equal noise, on every backend and device.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from (not under torch.compile(fullgraph=True), as for torch's own
            functions). Without noise, key, seed or generator, torch's default generator of the device is used; then
            torch.func.vmap needs its `randomness`. Under activation checkpointing use that one, which torch restores,
            or a key that nothing changes before backward (else RuntimeError).
        index_offset: number of the first element in the noise stream, so that a shard of a batch draws its own part.
            Elements are numbered in row-major order.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        The sample, with the shape of the logits and the strides of torch.empty_like (the reference's may differ);
        their dtype, or float32 for half logits under autocast.

        Defined everywhere: an infinite logit is a certain bit, whose zeta is the limit, with no gradient to it; NaN
        gives NaN; empty input gives empty output. Where a slope diverges, it is taken 2^-24 from its singular place:
        "spike_root" and "root" at the threshold, "exponential_mixture" and "logistic_mixture" where their density
        vanishes. The slope to the noise of "spike_power" and "power" divides by a distance from the end of at least
        2^-24 (see the README).

    Raises:
        TypeError: for logits, noise or a tensor beta that are not floating-point, noise of another dtype, and arguments
            of a wrong type.
        ValueError: for beta <= 0, NaN or infinite, an unknown kind, noise or a tensor beta on another device or of a
            shape that does not broadcast to that of the logits, noise that needs a gradient with "power_mixture", a key
            of wrong shape or device, a generator of another device type, more than one of noise, key, seed and
            generator, elements beyond 2^64 in the stream, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.
        Nothing is drawn or changed when an error is raised.

    Warns:
        Once a process, where logits need a gradient and beta is a number: with "power", "root" and "power_mixture" at
        beta <= 1, where the gradient vanishes or has the wrong sign; with "spike_root" and "root" at beta > 8, where
        a large part of it lies below the clamp.

    Source: Rolfe, "Discrete Variational Autoencoders", ICLR 2017 (arXiv:1609.02200), section 2.1 (spike_exponential);
    Vahdat et al., "DVAE++", ICML 2018 (arXiv:1802.04920) (exponential_mixture, logistic_mixture); Vahdat, Andriyash,
    Macready, "DVAE#", NeurIPS 2018 (arXiv:1805.07445) (power_mixture).

    Example:
        >>> noise = torch.tensor([0.1, 0.4, 0.6, 0.9])
        >>> smoothing_transform(torch.zeros(4), 4.0, "power", noise=noise)
        tensor([8.0000e-04, 2.0480e-01, 7.9520e-01, 9.9920e-01])
        >>> smoothing_transform(torch.zeros(4), 4.0, "spike_exponential", noise=noise)
        tensor([0.0000, 0.0000, 0.6153, 0.9454])
    """
    op = "smoothing_transform"
    _validate.floating(op, "logits", logits)
    device = logits.device
    _validate.sharpness(op, "beta", beta, device, logits.shape)
    _validate.one_of(op, "kind", kind, SMOOTHING_KINDS)
    chosen = SMOOTHING_KINDS[kind]
    _validate.noise_source(op, device, key, seed, generator, noise)
    if noise is not None:
        _validate.floating(op, "noise", noise)
        _validate.alike(op, "noise", noise, device, *dict.fromkeys((logits.dtype, compute_dtype(logits.dtype))))
        _validate.broadcastable(op, "noise", noise, logits.shape)
        if not chosen.noise_grad and noise.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: {kind} has no gradient to noise; pass noise.detach()")
    _validate.index_range(op, index_offset, logits.numel())
    backend = _backend.resolve(op, backend, device.type)
    if logits.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        _warn_of_gradient(chosen, beta)

    noise_key = None
    if noise is None:
        noise_key = _rng.make_key(device, key, seed, generator)
    else:
        noise = noise.to(compute_dtype(logits.dtype)).expand(logits.shape)
    sharpness = split_sharpness(beta, logits)
    if not _autograd.needs_function(logits, noise, sharpness.tensor):
        return SMOOTHING_FWD[backend](
            logits, noise, noise_key, *sharpness, kind, _rng.as_int64(index_offset), sample_dtype(logits)
        )
    options = _Options(sharpness.value, kind, _rng.as_int64(index_offset), sample_dtype(logits), backend)
    return _autograd.apply_or_forward(
        SmoothingFunction, (logits, noise, sharpness.tensor), noise_key, options, borrows_key=key is not None
    )


def smoothing_log_prob(
    zeta: Tensor, logits: Tensor, beta: float | Tensor, kind: str = "power", *, backend: str | None = None
) -> Tensor:
    """Log density (nats) of every element of `zeta` under a smoothing transformation, and for the spike kinds at zeta =
    0 the log of the probability mass that lies there.

    Args:
        zeta: relaxed bits, any shape and strides; of the dtype of the logits, or float32 for half logits. Clamped
            to [tiny, 1 - eps/2] of the dtype that is computed in (float64 for float64, else float32), with no gradient
            where that changes it; an exact 0 of a spike kind, and "logistic_mixture", are not clamped. Differentiable.
        logits: log odds of a one (nats); float32, float64, bfloat16 or float16. Broadcasts with zeta. Differentiable.
        beta: sharpness, a finite number > 0, or a float tensor on the device of zeta that has one element or broadcasts
            to the shape of zeta and the logits, through which gradients flow. A tensor's values are not checked: zero,
            negative, NaN or infinite gives NaN.
        kind: one of SMOOTHING_KINDS. The spike kinds have the mass 1 - sigmoid(logits) at zeta = 0 exactly, and there
            the result is log(1 - sigmoid(logits)), not a density; elsewhere in (0, 1] it is the density of the rest,
            which integrates to sigmoid(logits).
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        The log density in the broadcast shape; float64 for float64, else float32. -inf, without gradient, outside the
        support, which is [0, 1], or the whole line for "logistic_mixture"; NaN where an argument is NaN.

        The density of "root" at its threshold zeta = 1 - sigmoid(logits), which is 0 for beta > 1 and infinite below,
        is taken 2^-24 of its side's width from there, without gradient to zeta and the logits.

    Raises:
        TypeError: for zeta, logits or a tensor beta that are not floating-point, zeta of another dtype, and arguments
            of a wrong type.
        ValueError: for beta <= 0, NaN or infinite, an unknown kind, tensors on different devices, shapes that do not
            broadcast, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: Rolfe, "Discrete Variational Autoencoders", ICLR 2017 (arXiv:1609.02200), section 2.1; Vahdat et al.,
    "DVAE++", ICML 2018 (arXiv:1802.04920), section 3; Vahdat, Andriyash, Macready, "DVAE#", NeurIPS 2018
    (arXiv:1805.07445), section 4.

    Example:
        >>> smoothing_log_prob(torch.tensor([0.0, 0.5]), torch.tensor(0.0), 2.0, "spike_power")
        tensor([-0.6931, -1.0397])
    """
    op = "smoothing_log_prob"
    _validate.floating(op, "zeta", zeta)
    _validate.floating(op, "logits", logits)
    device = zeta.device
    _validate.on_device(op, "logits", logits, device)
    _validate.alike(op, "zeta", zeta, device, *dict.fromkeys((logits.dtype, compute_dtype(logits.dtype))))
    _validate.one_of(op, "kind", kind, SMOOTHING_KINDS)
    zeta, logits = _validate.broadcast_with_logits(op, "zeta", zeta, logits)
    _validate.sharpness(op, "beta", beta, device, logits.shape)
    backend = _backend.resolve(op, backend, device.type)

    sharpness = split_sharpness(beta, logits)
    return _autograd.apply_or_forward(
        SmoothingLogProbFunction, (zeta, logits, sharpness.tensor), sharpness.value, kind, backend
    )
