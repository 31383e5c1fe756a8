"""Autograd and the public functions of a Gumbel-softmax sample times a codebook.

A soft sample is saved for backward. A hard one saves the logits and the key, as does a temperature that learns or a KL.
The gradient to the sample is never whole: see composition.py.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._dtypes import compute_dtype, sample_dtype
from dvae_kernels._scalars import split_temperature
from dvae_kernels.ops.categorical_kl.schemas import CATEGORICAL_KL_BWD
from dvae_kernels.ops.codebook import code_sums
from dvae_kernels.ops.gumbel_softmax import recompute_bwd, sample_bwd
from dvae_kernels.ops.gumbel_softmax_embed import reference
from dvae_kernels.ops.gumbel_softmax_embed.formulas import as_rows
from dvae_kernels.ops.gumbel_softmax_embed.schemas import GUMBEL_SOFTMAX_EMBED_BWD, GUMBEL_SOFTMAX_EMBED_FWD


class GumbelEmbedding(NamedTuple):
    """The result of :func:`gumbel_softmax_embed`."""

    embedding: Tensor
    indices: Tensor


class GumbelEmbeddingKL(NamedTuple):
    """The result of :func:`gumbel_softmax_embed_kl`."""

    embedding: Tensor
    indices: Tensor
    kl: Tensor


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    tau_value: float
    hard: bool
    row_offset: int
    dtype: torch.dtype
    kl: bool
    save_sample: bool
    recompute: bool  # backward needs the logits
    backend: str


@_autograd.quick_apply
class GumbelSoftmaxEmbedFunction(torch.autograd.Function):
    """Forward op with the analytic backward.

    The saved sample is an output of its own, through which second derivatives reach the logits.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, codebook: Tensor, tau: Tensor | None, key: Tensor,
                options: _Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        tau_value, hard, row_offset, dtype, kl, save_sample, _, backend = options
        fwd = GUMBEL_SOFTMAX_EMBED_FWD[backend]
        return fwd(logits, codebook, key, tau, tau_value, hard, row_offset, dtype, save_sample, kl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, codebook, tau, key, options = inputs
        _, indices, sample, kl_rows = output
        ctx.logits_dtype, ctx.options = logits.dtype, options
        ctx.mark_non_differentiable(indices, *([sample] if options.hard else []), *([] if options.kl else [kl_rows]))
        ctx.set_materialize_grads(False)
        saved_logits = logits if options.recompute else None
        ctx.save_for_backward(saved_logits, None if options.hard else sample, codebook, indices, key, tau)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, _: Any, grad_sample: Tensor | None, grad_kl: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        options = ctx.options
        if grad is not None:
            grad = grad.to(options.dtype).transpose(1, 2)  # never to a narrower one
        grad_kl = grad_kl if options.kl else None
        logits_grad, codebook_grad, tau_grad = wanted = ctx.needs_input_grad[:3]
        saved = ctx.saved_tensors
        logits, sample, codebook, indices, key, tau = saved
        # a gradient to the sample itself comes from second derivatives alone, which compiled graphs do not have
        if _autograd.differentiated_twice() or (grad_sample is not None and not torch.compiler.is_compiling()):
            gradients = _differentiable_backward(ctx, saved, grad, grad_sample, grad_kl, *wanted)
        else:
            gradients = GUMBEL_SOFTMAX_EMBED_BWD[options.backend](
                grad, grad_kl, logits, sample, codebook, indices, key, tau, options.tau_value, options.row_offset,
                ctx.logits_dtype, *wanted,
            )  # fmt: skip
        dlogits, dcodebook, dtau_rows = gradients
        return (
            dlogits if logits_grad else None,
            dcodebook.to(codebook.dtype) if codebook_grad else None,
            # a row with NaN has no gradient at tau = 0 either
            torch.where(tau == 0, 0, dtau_rows.sum()) if tau_grad else None,
            None,
            None,
        )


def _differentiable_backward(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor | None, grad_sample: Tensor | None, grad_kl: Tensor | None,
    logits_grad: bool, codebook_grad: bool, tau_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The backward op composed of functions that have derivatives, with the gradient to the sample whole."""
    logits, sample, codebook, indices, key, tau = saved
    tau_value, _, row_offset, _, _, _, _, backend = ctx.options
    like = sample if logits is None else logits
    compute = compute_dtype(ctx.logits_dtype)
    dlogits = torch.zeros_like(like, dtype=ctx.logits_dtype)
    dcodebook = torch.zeros_like(codebook, dtype=compute)
    dtau_rows = like.new_zeros((1,), dtype=compute)
    cotangent = grad_sample
    if grad is not None:
        cotangent = reference.sample_gradient(grad, codebook)
        if grad_sample is not None:
            cotangent = cotangent + grad_sample
    if cotangent is not None and (logits_grad or tau_grad):
        if sample is None or tau_grad:
            dlogits, dtau_rows = recompute_bwd(cotangent, logits, key, tau, tau_value, 1, row_offset, tau_grad, backend)
        else:
            dlogits = sample_bwd(cotangent, sample, tau, tau_value, 1, ctx.logits_dtype, backend)
    if grad is not None and codebook_grad:
        if sample is None:
            dcodebook = code_sums(as_rows(grad), indices.reshape(-1), codebook.shape[0], backend)
        else:
            dcodebook = reference.codebook_gradient(sample, indices, grad)
    if grad_kl is not None and logits_grad:
        dlogits = dlogits + CATEGORICAL_KL_BWD["reference"](grad_kl, logits, None, 1, False)[0]
    return dlogits, dcodebook, dtau_rows


def gumbel_softmax_embed(
    logits: Tensor,
    codebook: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    dim: int = -1,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> GumbelEmbedding:
    """Gumbel-softmax sample times a codebook: the latent of a discrete VAE, embedded, without the sample itself.

    Equal to `gumbel_softmax(logits, tau, hard, dim=dim) @ codebook` with the categories last. Hard samples take rows of
    the codebook and never exist; no gradient to a sample ever exists whole.

    Args:
        logits: unnormalised log probabilities (nats), any shape with the K categories along `dim`; float32, float64,
            bfloat16 or float16; any strides, copied only where the other dimensions do not collapse to two.
            Differentiable.
        codebook: the codes, [K, D], on the device of the logits; float64 beside float64 logits, else any float dtype.
            Differentiable.
        tau: temperature, a finite number >= 0 or a one-element float tensor on the device of the logits, through
            which gradients flow. A tensor's value is not checked: negative, NaN or infinite gives NaN.
        hard: embed exact one-hot samples, with the gradient of the relaxed sample to the logits (straight-through).
        dim: the dimension of the categories.
        key: int64[2] = (seed, offset) on the device of the logits: the identity of the noise.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from; without key, seed or generator, torch's default one. Under
            activation checkpointing use that one, which torch restores, or a key that nothing changes before backward
            (else RuntimeError).
        row_offset: number of the first row in the noise stream, so that a shard of a batch draws its own part.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        (embedding, indices), a NamedTuple.

        embedding: the shape of the logits with D in the place of K, in the codebook's dtype; in memory D comes last.

        indices: int64, the shape of the logits without `dim`: of the hard sample of the same noise, as
        :func:`gumbel_argmax` gives them, in the soft case too. Not differentiable.

        Products with the codebook are in the wider of the sample's and the codebook's dtypes (float32 for two
        different halves), the sample being in float32 for half logits under autocast; they follow
        torch.set_float32_matmul_precision.

        Defined everywhere: with tau = 0 the one-hot sample's and zero gradient to the logits; a row of only -inf gives
        zeros, index -1 and no gradient; a row with NaN or +inf gives NaN, index -2 and no part in the gradient to the
        codebook, and so does every row where a tensor tau is negative, NaN or infinite; ties of indices go to the
        lowest; empty input gives empty output.

    Raises:
        TypeError: for logits, a codebook or a tensor tau that are not floating-point, float64 beside another dtype, and
            for arguments of a wrong type.
        ValueError: for a codebook of another shape than [K, D] or on another device, rows without categories (K = 0),
            tau < 0, NaN or infinite, a tensor tau of more than one element or on another device, dim out of range, a
            key of wrong shape or device, a generator of another device type, more than one of key, seed and generator,
            rows beyond 2^32 in the stream, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.
        Nothing is drawn or changed when an error is raised.

    Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv:1611.01144), eq. 2;
    as embedded by Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021 (arXiv:2102.12092), section 2.1.

    Example:
        >>> codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
        >>> embedding, indices = gumbel_softmax_embed(torch.zeros(4, 3), codebook, hard=True, seed=0)
        >>> torch.equal(embedding, codebook[indices])
        True
    """
    embedding, indices, _ = _embed(
        "gumbel_softmax_embed", logits, codebook, tau, hard, dim, False, key, seed, generator, row_offset, backend
    )
    return GumbelEmbedding(embedding, indices)


def gumbel_softmax_embed_kl(
    logits: Tensor,
    codebook: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    dim: int = -1,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> GumbelEmbeddingKL:
    """:func:`gumbel_softmax_embed` together with the KL divergence of softmax(logits) from the uniform distribution.

    The divergence is made in the same passes over the logits as the embedding, forward and backward.

    Args:
        logits: as for :func:`gumbel_softmax_embed`, and so are all other arguments. Differentiable through the
            divergence too.
        codebook: the codes, [K, D]. Differentiable.
        tau: temperature.
        hard: embed exact one-hot samples.
        dim: the dimension of the categories.
        key: int64[2] = (seed, offset), the identity of the noise.
        seed: an int, short for the key (seed, 0).
        generator: a torch.Generator to draw the key from.
        row_offset: number of the first row in the noise stream.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        (embedding, indices, kl), a NamedTuple: the first two as :func:`gumbel_softmax_embed` gives them.

        kl: nats, the shape of the indices, in float32 (float64 for float64), as :func:`categorical_kl` gives it without
        a prior; NaN for a row without a finite logit.

    Raises:
        TypeError, ValueError, BackendUnavailable: as :func:`gumbel_softmax_embed`.

    Source: as :func:`gumbel_softmax_embed` and :func:`categorical_kl`.

    Example:
        >>> logits, codebook = torch.zeros(4, 3), torch.eye(3)
        >>> result = gumbel_softmax_embed_kl(logits, codebook, seed=0)
        >>> torch.equal(result.kl, categorical_kl(logits))
        True
    """
    op = "gumbel_softmax_embed_kl"
    result = _embed(op, logits, codebook, tau, hard, dim, True, key, seed, generator, row_offset, backend)
    return GumbelEmbeddingKL(*result)


def _embed(
    op: str, logits: Tensor, codebook: Tensor, tau: float | Tensor, hard: bool, dim: int, kl: bool,
    key: Tensor | None, seed: int | None, generator: torch.Generator | None, row_offset: int, backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(embedding, indices, kl), kl empty where not asked for."""
    _validate.floating(op, "logits", logits)
    dim = _validate.dimension(op, logits if logits.dim() else logits[None], dim)
    shape = logits.shape or torch.Size([1])
    device = logits.device
    _validate.floating(op, "codebook", codebook)
    if codebook.dim() != 2 or codebook.shape[0] != shape[dim]:
        raise ValueError(f"{op}: expected codebook of shape [{shape[dim]}, D], got {tuple(codebook.shape)}")
    _validate.on_device(op, "codebook", codebook, device)
    if (logits.dtype == torch.float64) != (codebook.dtype == torch.float64):
        names = f"{_validate.dtype_name(logits.dtype)} and {_validate.dtype_name(codebook.dtype)}"
        raise TypeError(f"{op}: expected logits and codebook both float64 or neither, got {names}")
    _validate.temperature(op, "tau", tau, device)
    _validate.boolean(op, "hard", hard)
    _validate.noise_source(op, device, key, seed, generator)
    outer, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    _validate.row_range(op, row_offset, outer * inner)
    _validate.some_category(op, shape, dim)
    backend = _backend.resolve(op, backend, device.type)

    dtype = torch.promote_types(sample_dtype(logits), codebook.dtype)
    noise_key = _rng.make_key(device, key, seed, generator)
    temperature = split_temperature(tau, logits)
    recompute = hard or kl or temperature.learns()
    save_sample = _autograd.needs_function(logits, codebook, temperature.tensor)
    options = _Options(temperature.value, hard, row_offset, dtype, kl, save_sample, recompute, backend)
    rows = logits.reshape(outer, shape[dim], inner)
    embedding, indices, _, kl_rows = _autograd.apply_or_forward(
        GumbelSoftmaxEmbedFunction, (rows, codebook, temperature.tensor), noise_key, options,
        borrows_key=key is not None,
    )  # fmt: skip
    # transposed here, so that autograd knows the view and the caller may change it in place
    embedding = embedding.transpose(1, 2).view(*shape[:dim], codebook.shape[1], *shape[dim + 1 :])
    around = (*logits.shape[:dim], *logits.shape[dim + 1 :])
    return embedding, indices.view(around), kl_rows.view(around) if kl else kl_rows
