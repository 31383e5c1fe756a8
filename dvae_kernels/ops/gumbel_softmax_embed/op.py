"""Schemas, autograd and the public function of a Gumbel-softmax sample times a codebook.

A soft sample is saved for backward. A hard one saves the logits and the key, as does a temperature that learns or a KL.
The gradient to the sample is never whole: see composition.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._dtypes import compute_dtype, sample_dtype
from dvae_kernels._library import define_op
from dvae_kernels._scalars import split_temperature
from dvae_kernels.ops.categorical_kl import reference as categorical
from dvae_kernels.ops.codebook import code_sums
from dvae_kernels.ops.gumbel_softmax.op import RecomputeBackward, SampleBackward
from dvae_kernels.ops.gumbel_softmax_embed import composition, reference


def _fwd_fake(logits: Tensor, codebook: Tensor, key: Tensor, tau: Any, tau_value: float, hard: bool, row_offset: int,
              dtype: torch.dtype, save_sample: bool, kl: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return composition.new_outputs(logits, codebook, hard, dtype, save_sample, kl)


def _bwd_fake(grad: Any, grad_kl: Any, logits: Any, sample: Any, codebook: Tensor, indices: Tensor, key: Tensor,
              tau: Any, tau_value: float, row_offset: int, dtype: torch.dtype, logits_grad: bool, codebook_grad: bool,
              tau_grad: bool) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    like = sample if logits is None else logits
    return composition.new_gradients(like, codebook, indices, dtype, logits_grad, codebook_grad, tau_grad)


# Of logits [outer, K, inner]: (embedding [outer, inner, D], indices [outer, inner], the relaxed sample in `dtype`, the
# rows' KL to uniform), the sample empty where it is hard or not to be saved, the KL where it is not asked for.
_FWD = define_op(
    "gumbel_softmax_embed_fwd(Tensor logits, Tensor codebook, Tensor key, Tensor? tau, float tau_value, bool hard, "
    "SymInt row_offset, ScalarType dtype, bool save_sample, bool kl) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.gumbel_softmax_embed_fwd,
    composed=composition.fwd,
    fake=_fwd_fake,
)
# `grad` [outer, D, inner] is in the dtype of the products. Without `sample` it is made again from the logits and the
# key. (dlogits in `dtype`, dcodebook in the compute dtype, the rows' parts of dtau), each empty where not asked for.
_BWD = define_op(
    "gumbel_softmax_embed_bwd(Tensor? grad, Tensor? grad_kl, Tensor? logits, Tensor? sample, Tensor codebook, "
    "Tensor indices, Tensor key, Tensor? tau, float tau_value, SymInt row_offset, ScalarType dtype, bool logits_grad, "
    "bool codebook_grad, bool tau_grad) -> (Tensor, Tensor, Tensor)",
    reference=reference.gumbel_softmax_embed_bwd,
    composed=composition.bwd,
    fake=_bwd_fake,
)


@_autograd.quick_apply
class GumbelSoftmaxEmbedFunction(torch.autograd.Function):
    """Forward op with the analytic backward. Forward-mode differentiation is not defined and raises.

    The saved sample is an output of its own, through which second derivatives reach the logits.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, codebook: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, hard: bool,
                row_offset: int, dtype: torch.dtype, kl: bool, tau_learns: bool,
                backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        return _FWD[backend](logits, codebook, key, tau, tau_value, hard, row_offset, dtype, True, kl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        (logits, codebook, key, tau, ctx.tau_value, hard, ctx.row_offset, ctx.dtype, kl, tau_learns,
         ctx.backend) = inputs  # fmt: skip
        _, indices, sample, kl_rows = output
        ctx.logits_dtype, ctx.kl = logits.dtype, kl
        ctx.mark_non_differentiable(indices, *([sample] if hard else []), *([] if kl else [kl_rows]))
        ctx.set_materialize_grads(False)
        saved_logits = logits if hard or tau_learns or kl else None
        ctx.save_for_backward(saved_logits, None if hard else sample, codebook, indices, key, tau)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, _: Any, grad_sample: Tensor | None, grad_kl: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad is not None:
            grad = grad.to(ctx.dtype).transpose(1, 2)  # never to a narrower one
        grad_kl = grad_kl if ctx.kl else None
        wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
        saved = ctx.saved_tensors
        logits, sample, codebook, indices, key, tau = saved
        # a gradient to the sample itself comes from second derivatives alone, which compiled graphs do not have
        if _autograd.differentiated_twice() or (grad_sample is not None and not torch.compiler.is_compiling()):
            gradients = _differentiable_backward(ctx, saved, grad, grad_sample, grad_kl, *wanted)
        else:
            gradients = _BWD[ctx.backend](
                grad, grad_kl, logits, sample, codebook, indices, key, tau, ctx.tau_value, ctx.row_offset,
                ctx.logits_dtype, *wanted,
            )  # fmt: skip
        dlogits, dcodebook, dtau_rows = gradients
        return (
            dlogits if wanted[0] else None,
            dcodebook.to(codebook.dtype) if wanted[1] else None,
            None,
            # a row with NaN has no gradient at tau = 0 either
            torch.where(tau == 0, 0, dtau_rows.sum()) if wanted[2] else None,
        ) + (None,) * 7


def _differentiable_backward(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor | None, grad_sample: Tensor | None, grad_kl: Tensor | None,
    logits_grad: bool, codebook_grad: bool, tau_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As the backward op, of functions that have derivatives, the gradient to the sample whole."""
    logits, sample, codebook, indices, key, tau = saved
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
            dlogits, dtau_rows = RecomputeBackward.apply(
                cotangent, logits, key, tau, ctx.tau_value, 1, ctx.row_offset, tau_grad, ctx.backend
            )
        else:
            dlogits = SampleBackward.apply(cotangent, sample, tau, ctx.tau_value, 1, ctx.logits_dtype, ctx.backend)
    if grad is not None and codebook_grad:
        if sample is None:
            rows = reference.as_rows(grad)
            dcodebook = code_sums(rows, indices.reshape(-1), codebook.shape[0], ctx.backend)
        else:
            dcodebook = reference.codebook_gradient(sample, indices, grad)
    if grad_kl is not None and logits_grad:
        dlogits = dlogits + categorical.categorical_kl_bwd(grad_kl, logits, None, 1, False)[0]
    return dlogits, dcodebook, dtau_rows


def gumbel_softmax_embed(
    logits: Tensor,
    codebook: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    dim: int = -1,
    return_kl: bool = False,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
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
        return_kl: return the KL divergence of softmax(logits) from the uniform distribution as well, made in the same
            passes over the logits, forward and backward.
        key: int64[2] = (seed, offset) on the device of the logits: the identity of the noise.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from; without key, seed or generator, torch's default one. Under
            activation checkpointing, pass `key`.
        row_offset: number of the first row in the noise stream, so that a shard of a batch draws its own part.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        (embedding, indices), or (embedding, indices, kl) with return_kl.

        embedding: the shape of the logits with D in the place of K, in the codebook's dtype; in memory D comes last.
        indices: int64, the shape of the logits without `dim`: of the hard sample of the same noise, as
        :func:`gumbel_argmax` gives them, in the soft case too. Not differentiable. kl: nats, that shape, in float32
        (float64 for float64); NaN for a row without a finite logit.

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
    op = "gumbel_softmax_embed"
    _validate.floating(op, "logits", logits)
    dim = _validate.dimension(op, logits if logits.dim() else logits[None], dim)
    shape = logits.shape or torch.Size([1])
    device = logits.device
    _validate.floating(op, "codebook", codebook)
    if codebook.dim() != 2 or codebook.shape[0] != shape[dim]:
        raise ValueError(f"{op}: expected codebook of shape [{shape[dim]}, D], got {tuple(codebook.shape)}")
    if codebook.device != device:
        raise ValueError(f"{op}: expected codebook on {device}, got {codebook.device}")
    if (logits.dtype == torch.float64) != (codebook.dtype == torch.float64):
        names = f"{_validate.dtype_name(logits.dtype)} and {_validate.dtype_name(codebook.dtype)}"
        raise TypeError(f"{op}: expected logits and codebook both float64 or neither, got {names}")
    _validate.temperature(op, "tau", tau, device)
    _validate.boolean(op, "hard", hard)
    _validate.boolean(op, "return_kl", return_kl)
    _validate.noise_source(op, device, key, seed, generator)
    outer, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    _validate.row_range(op, row_offset, outer * inner)
    _validate.some_category(op, shape, dim)
    backend = _backend.resolve(op, backend, device.type)

    dtype = torch.promote_types(sample_dtype(logits), codebook.dtype)
    noise_key = _rng.make_key(device, key, seed, generator)
    tau_tensor, tau_value = split_temperature(tau, logits.dtype)
    rows = logits.reshape(outer, shape[dim], inner)
    if _autograd.needs_function(logits, codebook, tau_tensor):
        if key is not None:
            noise_key = key.clone()  # the caller may advance it before backward
        tau_learns = tau_tensor is not None and (tau_tensor.requires_grad or _autograd.transformed())
        embedding, indices, _, kl = GumbelSoftmaxEmbedFunction.apply(
            rows, codebook, noise_key, tau_tensor, tau_value, hard, row_offset, dtype, return_kl, tau_learns, backend
        )
    else:
        embedding, indices, _, kl = _FWD[backend](
            rows, codebook, noise_key, tau_tensor, tau_value, hard, row_offset, dtype, False, return_kl
        )
    around = (*logits.shape[:dim], *logits.shape[dim + 1 :])
    # transposed here, so that autograd knows the view and the caller may change it in place
    embedding = embedding.transpose(1, 2).view(*shape[:dim], codebook.shape[1], *shape[dim + 1 :])
    indices = indices.view(around)
    return (embedding, indices, kl.view(around)) if return_kl else (embedding, indices)
