"""Autograd and the public functions of Gumbel-softmax.

A soft sample is saved for its own backward, as softmax does. A hard one saves the logits and the key, and its backward
draws the same noise again: nothing that can be recomputed is stored. So does a sample with a temperature that learns,
whose gradient needs log y to more digits than a stored y has.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._dtypes import sample_dtype
from dvae_kernels._scalars import split_temperature
from dvae_kernels.ops import hard_estimators
from dvae_kernels.ops.gumbel_softmax.derivatives import recompute_bwd, sample_bwd
from dvae_kernels.ops.gumbel_softmax.schemas import (
    GUMBEL_ARGMAX,
    GUMBEL_SOFTMAX_BWD,
    GUMBEL_SOFTMAX_FWD,
    GUMBEL_SOFTMAX_RECOMPUTE_BWD,
)


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    tau_value: float
    dim: int
    hard: bool
    row_offset: int
    dtype: torch.dtype
    recompute: bool  # backward makes y again from the logits and the key
    noise_grad: bool  # the gradient is the relaxed sample's; else, with recompute, that of softmax(logits / tau)
    backend: str


@_autograd.quick_apply
class GumbelSoftmaxFunction(torch.autograd.Function):
    """Forward op with the analytic backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, tau: Tensor | None, key: Tensor, options: _Options) -> Tensor:
        tau_value, dim, hard, row_offset, dtype, _, _, backend = options
        return GUMBEL_SOFTMAX_FWD[backend](logits, key, tau, tau_value, dim, hard, row_offset, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, tau, key, options = inputs
        ctx.options, ctx.logits_dtype = options, logits.dtype
        kept_key = key if options.noise_grad else None
        ctx.save_for_backward(*((logits, kept_key, tau) if options.recompute else (output, tau)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tau_value, dim, _, row_offset, _, recompute, _, backend = ctx.options
        dtau = None
        if recompute:
            logits, key, tau = ctx.saved_tensors
            tau_grad = tau is not None and ctx.needs_input_grad[1]
            args = (grad, logits, key, tau, tau_value, dim, row_offset, tau_grad)
            dlogits, dtau_rows = _autograd.in_backward(recompute_bwd, GUMBEL_SOFTMAX_RECOMPUTE_BWD, backend, *args)
            # a row with NaN has no gradient at tau = 0 either
            dtau = torch.where(tau == 0, 0, dtau_rows.sum()) if tau_grad else None
        else:
            y, tau = _autograd.saved_with_output(ctx, "gumbel_softmax", "sample")
            dlogits = _autograd.in_backward(
                sample_bwd, GUMBEL_SOFTMAX_BWD, backend, grad, y, tau, tau_value, dim, ctx.logits_dtype
            )
        return dlogits, dtau, None, None


def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    estimator: hard_estimators.Estimator = "gumbel",
    draws: int = 1,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Sample from the Gumbel-softmax (concrete) distribution: softmax((logits + G) / tau), G standard Gumbel noise.

    A drop-in replacement for :func:`torch.nn.functional.gumbel_softmax` whose noise is made inside the kernel, never
    stored, always finite, and the same on every device.

    Args:
        logits: unnormalised log probabilities (nats), any shape with the categories along `dim`; float32, float64,
            bfloat16 or float16; any strides, copied only where the other dimensions do not collapse to two.
            Differentiable.
        tau: temperature, a finite number >= 0 or a one-element float tensor on the device of the logits, through
            which gradients flow. A tensor's value is not checked: negative, NaN or infinite gives NaN. Under
            torch.compile or in a CUDA graph, pass a tensor to anneal without recompiling or recapturing.
        hard: return exact one-hot samples, with the gradient that `estimator` gives.
        eps: ignored, warns when set; keeps torch's place in the signature.
        dim: the dimension of the categories.
        estimator: whose gradient a hard sample has; the sample itself is the same. "gumbel": the relaxed sample's
            (straight-through Gumbel-softmax); "straight_through": that of softmax(logits / tau); "reinmax": ReinMax, of
            second order, for tau >= 1; "gumbel_rao": Gumbel-Rao, the mean over `draws` relaxed samples that share the
            hard one. The last two give no gradient to tau. The README of ops/hard_estimators compares them.
        draws: how many relaxed samples "gumbel_rao" averages.
        key: int64[2] = (seed, offset) on the device of the logits, offset taken modulo 2^32: the identity of the
            noise. Equal keys give equal noise, on every backend and device.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from (not under torch.compile(fullgraph=True), as for torch's own
            functions). Without key, seed or generator, torch's default generator of the device is used; then
            torch.func.vmap needs its `randomness`. Under activation checkpointing use that one, which torch restores,
            or a key that nothing changes before backward (else RuntimeError).
        row_offset: number of the first row in the noise stream, so that a shard of a batch draws its own part. Rows
            are numbered outer_index * inner_size + inner_index around `dim`.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        The sample, with the shape of the logits and the strides of torch.empty_like (the reference's may differ);
        their dtype, or float32 for half logits under autocast. Each slice along `dim` sums to one.

        Defined everywhere: tau = 0 gives the one-hot sample and zero gradient; -inf logits get exactly 0, and a row
        of only -inf is all zeros with zero gradient; a row with NaN or +inf is all NaN; exact ties of a hard sample
        go to the lowest index; empty input gives empty output.

    Raises:
        TypeError: for logits or a tensor tau that are not floating-point, and for arguments of a wrong type.
        ValueError: for tau < 0, NaN or infinite, a tensor tau of more than one element or on another device, dim out
            of range, a key of wrong shape or device, a generator of another device type, more than one of key, seed and
            generator, rows beyond 2^32 in the stream, an unknown backend or estimator; for an estimator other than
            "gumbel" without hard=True, draws < 1, draws other than 1 without "gumbel_rao", a float tau < 1 with
            "reinmax", a tau that requires a gradient with "reinmax" or "gumbel_rao".
        BackendUnavailable: for a named backend that cannot run here, with the reasons.
        Nothing is drawn or changed when an error is raised.

    Float32 noise agrees between backends to about 2e-6, so hard indices can differ only where the two best perturbed
    logits are closer than about 1e-5 (some 2e-6 of rows), or than the rounding of logits that are large.

    Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv:1611.01144),
    eq. 2; Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017 (arXiv:1611.00712). Estimators: Bengio, Léonard,
    Courville 2013 (arXiv:1308.3432); Liu et al. 2023, Algorithm 2 (arXiv:2304.08612); Paulus, Maddison, Krause 2021,
    eq. 9 (arXiv:2010.04838).

    Example:
        >>> y = gumbel_softmax(torch.zeros(2, 3), hard=True, seed=0)
        >>> y.sum(-1)
        tensor([1., 1.])
    """
    op = "gumbel_softmax"
    _validate.floating(op, "logits", logits)
    scalar = logits.dim() == 0  # torch takes a scalar for one category
    if scalar:
        logits = logits[None]
    dim = _validate.dimension(op, logits, dim)
    device = logits.device
    _validate.temperature(op, "tau", tau, device)
    _validate.boolean(op, "hard", hard)
    hard_estimators.validate(op, estimator, draws, hard, tau)
    _validate.noise_source(op, device, key, seed, generator)
    _validate.row_range(op, row_offset, logits.numel() // max(logits.shape[dim], 1))
    backend = _backend.resolve(op, backend, device.type)
    if eps != 1e-10 and not torch.compiler.is_compiling():  # which cannot trace a warning
        warnings.warn(f"{op}: `eps` is deprecated and has no effect", stacklevel=2)

    temperature = split_temperature(tau, logits)
    noise_key = _rng.make_key(device, key, seed, generator)
    dtype = sample_dtype(logits)
    if estimator in hard_estimators.ESTIMATORS:
        sample = hard_estimators.hard_sample(
            logits, temperature, noise_key, dim, row_offset, dtype, estimator, draws, backend,
            borrows_key=key is not None,
        )  # fmt: skip
    elif not _autograd.needs_function(logits, temperature.tensor):
        sample = GUMBEL_SOFTMAX_FWD[backend](logits, noise_key, *temperature, dim, hard, row_offset, dtype)
    else:
        recompute, noise_grad = hard or temperature.learns(), estimator == "gumbel"
        options = _Options(temperature.value, dim, hard, row_offset, dtype, recompute, noise_grad, backend)
        sample = _autograd.apply_or_forward(
            GumbelSoftmaxFunction, (logits, temperature.tensor), noise_key, options, borrows_key=key is not None
        )
    return sample[0] if scalar else sample


def gumbel_argmax(
    logits: Tensor,
    dim: int = -1,
    *,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Sample categories: argmax(logits + G) along `dim`, an exact sample of softmax(logits) (the Gumbel-max trick).

    The index of the hard sample that :func:`gumbel_softmax` draws with the same noise, without that sample. Not
    differentiable.

    Args:
        logits: unnormalised log probabilities (nats), any shape with the categories along `dim`, a scalar for one
            category; float32, float64, bfloat16 or float16; any strides.
        dim: the dimension of the categories.
        key: int64[2] = (seed, offset) on the device of the logits: the identity of the noise.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from; without key, seed or generator, torch's default one.
        row_offset: number of the first row in the noise stream.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        int64 indices, contiguous, with the shape of the logits without `dim`; exact ties go to the lowest index.
        Where there is no category to choose: -1 for a row of only -inf, -2 for a row with NaN or +inf.

    Raises:
        TypeError: for logits that are not floating-point, and for arguments of a wrong type.
        ValueError: for rows without categories (K = 0), dim out of range, a key of wrong shape or device, a generator
            of another device type, more than one of key, seed and generator, rows beyond 2^32 in the stream, an unknown
            backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.
        Nothing is drawn or changed when an error is raised.

    Source: Gumbel, "Statistical Theory of Extreme Values", 1954; Maddison, Tarlow, Minka, "A* Sampling", NeurIPS 2014
    (arXiv:1411.0030), section 2.

    Example:
        >>> logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
        >>> gumbel_argmax(logits, seed=0)
        tensor([ 0, -1])
    """
    op = "gumbel_argmax"
    _validate.floating(op, "logits", logits)
    if logits.dim() == 0:
        logits = logits[None]
    dim = _validate.dimension(op, logits, dim)
    _validate.noise_source(op, logits.device, key, seed, generator)
    _validate.row_range(op, row_offset, logits.numel() // max(logits.shape[dim], 1))
    _validate.some_category(op, logits.shape, dim)
    backend = _backend.resolve(op, backend, logits.device.type)
    noise_key = _rng.make_key(logits.device, key, seed, generator)
    return GUMBEL_ARGMAX[backend](logits.detach(), noise_key, dim, row_offset)
