"""Autograd and the public function of vector quantization.

Saved for backward: the rows of x, their codes and the indices, never the codebook, which may be updated in place before
backward. Where the quantized rows have the codebook's dtype, they are the codes.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _rng, _validate
from dvae_kernels._indices import MASKED
from dvae_kernels._rows import by_head, columns_last, from_heads
from dvae_kernels._scalars import split_temperature
from dvae_kernels._warnings import warn_once
from dvae_kernels.ops.codebook import code_sums
from dvae_kernels.ops.codebook.schemas import CODE_SUMS
from dvae_kernels.ops.nearest_code import METRICS, MetricName
from dvae_kernels.ops.nearest_code.schemas import NEAREST_CODE
from dvae_kernels.ops.vector_quantize import reference
from dvae_kernels.ops.vector_quantize.schemas import SAMPLE_CODES, VECTOR_QUANTIZE_BWD, VECTOR_QUANTIZE_FWD

Gradient = Literal["straight_through", "rotation"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


class VectorQuantized(NamedTuple):
    """The result of :func:`vector_quantize`."""

    quantized: Tensor
    indices: Tensor
    loss: Tensor


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    heads: int
    reduction: Reduction
    metric: MetricName
    temperature: float
    row_offset: int
    commitment_weight: float
    codebook_weight: float
    rotation: bool
    backend: str


def _quantize(
    x: Tensor,
    codebook: Tensor,
    real: Tensor | None,
    elements: Tensor | int,
    key: Tensor | None,
    temperature: Tensor | None,
    options: _Options,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(quantized [N H, D], indices [N H] into the codebook [H K, D], the reduced loss, codes in the codebook's dtype
    where that is another) of x [N H, D], without the rows that are not `real` [N H]; a mean is over `elements`."""
    heads, backend = options.heads, options.backend
    num_codes = codebook.shape[0] // heads
    rows, books = x, codebook
    if heads > 1:
        rows, books = x.unflatten(0, (x.shape[0] // heads, heads)), codebook.unflatten(0, (heads, num_codes))
    rows, books = by_head(rows, books)
    if key is None:
        index, _, _ = NEAREST_CODE[backend](rows, books, options.metric, "exact", False)
    else:
        scalar = (temperature, options.temperature)
        index = SAMPLE_CODES[backend](rows, books, key, options.metric, *scalar, options.row_offset)
    if heads > 1:
        index = index + torch.arange(0, heads * num_codes, num_codes, device=x.device)[:, None]
    index = from_heads(index, x.shape[:1])
    if real is not None:
        index = index.where(real, MASKED)
    quantized, codes, errors = VECTOR_QUANTIZE_FWD[backend](x, codebook, index, x.dtype != codebook.dtype)
    loss = errors * (options.commitment_weight + options.codebook_weight)
    if options.reduction != "none":
        loss = _total(loss)
    if options.reduction == "mean":
        loss = loss / elements
    return quantized, index, loss, codes


def _total(rows: Tensor) -> Tensor:
    """The sum. torch shares out a long one among threads, but never the columns of a matrix: the same bits for any
    number of threads. An exported program has the plain sum, which takes any number of rows."""
    if torch.compiler.is_exporting() or (not torch.compiler.is_compiling() and rows.shape[0] < 32768):
        return rows.sum()
    for _ in range(2):
        rows = torch.nn.functional.pad(rows, (0, -rows.shape[0] % 2048)).unflatten(0, (-1, 2048)).sum(1)
    return rows.sum()


@_autograd.quick_apply
class VectorQuantizeFunction(torch.autograd.Function):
    """_quantize with the estimator's gradient to x, and those of the losses.

    The last output is zero for every code that was used: through it second derivatives reach the codebook, which is not
    saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, codebook: Tensor, real: Tensor | None, elements: Tensor | int, key: Tensor | None,
        temperature: Tensor | None, options: _Options,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        rows = x.shape[0] if options.codebook_weight else 0
        used = codebook.new_zeros(()).expand(rows, codebook.shape[1])
        return *_quantize(x, codebook, real, elements, key, temperature, options), used

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, codebook, _, elements, _, _, ctx.options = inputs
        quantized, indices, _, codes, used = output
        ctx.num_codes, ctx.codebook_dtype = codebook.shape[0], codebook.dtype
        ctx.elements = None if isinstance(elements, Tensor) else elements
        ctx.mark_non_differentiable(indices, codes)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            x, quantized if x.dtype == codebook.dtype else codes, indices, used,
            elements if isinstance(elements, Tensor) else None,
        )  # fmt: skip

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, _: Any, grad_losses: Tensor | None, __: Any, grad_used: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, codes, indices, used, elements = _autograd.saved_with_output(ctx, "vector_quantize", "quantized")
        options = ctx.options
        if grad_losses is not None and options.reduction == "mean":
            grad_losses = grad_losses / (ctx.elements if elements is None else elements)
        if grad_losses is not None and options.reduction != "none":
            grad_losses = grad_losses.expand(x.shape[0])
        learns = bool(ctx.needs_input_grad[1] and options.codebook_weight)
        args = (options.commitment_weight, options.codebook_weight, options.rotation, learns)
        if _autograd.differentiated_twice():
            codes = codes.detach() + used if learns else codes
            dx, dcodes = reference.vector_quantize_bwd(grad, grad_losses, x, codes, indices, *args)
        elif torch.compiler.is_compiling():
            dx, dcodes = _backward_with_any_weights(grad, grad_losses, x, codes, indices, options, learns)
        else:
            dx, dcodes = VECTOR_QUANTIZE_BWD[options.backend](grad, grad_losses, x, codes, indices, *args)
        dcodebook = None
        if learns:
            dcodes = dcodes if grad_used is None else dcodes + grad_used
            sums = _autograd.in_backward(code_sums, CODE_SUMS, options.backend, dcodes, indices, ctx.num_codes)
            dcodebook = sums.to(ctx.codebook_dtype)
        return dx if ctx.needs_input_grad[0] else None, dcodebook, None, None, None, None, None


def _backward_with_any_weights(
    grad: Tensor | None, grad_losses: Tensor | None, x: Tensor, codes: Tensor, indices: Tensor, options: _Options,
    learns: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """VECTOR_QUANTIZE_BWD with each weight in a product with the losses' gradient: a graph that passes the op a number
    is made again for every value of the number."""
    bwd = VECTOR_QUANTIZE_BWD[options.backend]

    def losses(weight: float) -> Tensor | None:
        return grad_losses * weight if grad_losses is not None and weight else None

    dx, dcodes = bwd(grad, losses(options.commitment_weight), x, codes, indices, 1.0, 0.0, options.rotation, False)
    if learns:
        _, dcodes = bwd(None, losses(options.codebook_weight), x, codes, indices, 0.0, 1.0, False, True)
    return dx, dcodes


def vector_quantize(
    x: Tensor,
    codebook: Tensor,
    *,
    commitment_weight: float = 0.25,
    codebook_weight: float = 0.0,
    gradient: Gradient = "straight_through",
    metric: MetricName = "l2",
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    temperature: float | Tensor = 0.0,
    dim: int = -1,
    key: Tensor | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> VectorQuantized:
    """Rows replaced by their nearest codes: the bottleneck of a VQ-VAE, with its losses and an estimator's gradient.

    Args:
        x: the encoder's rows, [..., D], or [..., H, D] for a codebook of H heads, with D at `dim`; float32, float64,
            bfloat16 or float16; any strides, copied only where the other dimensions do not collapse to one or the D
            columns do not lie next to each other. Differentiable.
        codebook: the codes, [K, D] with K, D >= 1, or [H, K, D]: a codebook for each of H heads, on the device of x;
            float64 beside float64 x, else any float dtype. Differentiable, through the codebook loss alone. It may be
            updated in place between forward and backward.
        commitment_weight: of |x - sg(c)|^2, which draws x to its code: a finite number >= 0.
        codebook_weight: of |sg(x) - c|^2, which draws codes to their rows: a finite number >= 0. Leave it at 0 where
            the codebook follows moving averages (:func:`ema_update_`).
        gradient: to x from the quantized rows. "straight_through": theirs, unchanged. "rotation": theirs, turned and
            stretched as x was into its code.
        metric: "l2" or another name of :func:`nearest_code`'s score s, by which the nearest code is chosen; the losses
            are squared distances with any.
        mask: bool, broadcastable to the shape of x without D and H: True for rows that are real, False for padding.
        reduction: of the losses: "mean" over all elements of real rows, "sum", or "none": one of each row.
        temperature: a finite number >= 0, or a one-element float tensor on the device of x. Above 0 code k is drawn
            with a probability that goes as exp(2 s(k) / temperature): exp(-|x - c_k|^2 / temperature) with l2. At the
            number 0 the nearest is taken and nothing is drawn. A tensor's value is not checked: at 0 the best of the
            scores is taken as they are rounded, and negative, NaN or infinite gives index 0.
        dim: the dimension of the columns D: 1 for images [B, D, H, W].
        key: int64[2] = (seed, offset) on the device of x: the identity of the noise.
        seed: an int, taken modulo 2^64; short for the key (seed, 0).
        generator: a torch.Generator to draw the key from; without key, seed or generator, torch's default one. Under
            activation checkpointing use that one, which torch restores, or a key that nothing changes before backward
            (else RuntimeError).
        row_offset: number of the first row (with heads, of its first head) in the noise stream, so that a shard of a
            batch draws its own part.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        (quantized, indices, loss), a NamedTuple.

        quantized: the codes' values, in the shape and dtype of x; in memory D comes last.

        indices: int64, the shape of x without D, as :func:`nearest_code` gives them, -1 for padding. Not
        differentiable.

        loss: commitment_weight |x - sg(c)|^2 + codebook_weight |sg(x) - c|^2, reduced, in float32 (float64 for
        float64): a scalar, 0 where there are no real rows; with reduction "none" in the shape of the indices, summed
        over D.

        Defined everywhere: padding gives index -1, quantized 0, loss 0 and no gradient, whatever its values; a row of x
        with NaN or an infinity has index 0, a quantized value and a loss of NaN, and no part in the gradient to the
        codebook; a code with NaN or an infinity is never chosen. "rotation" is "straight_through" for a row whose norm,
        or whose code's, is outside 2^-60 ... 2^60, as that of zeros is, and for one that is opposite to its code, to
        2^-16 of a radian. Loss and gradients are the same bits for any number of threads.

    Raises:
        TypeError: for x or a codebook that is not floating-point, float64 beside another dtype, a mask that is not
            bool, and for arguments of a wrong type.
        ValueError: for a codebook of another shape than [K, D] or [H, K, D] or without codes (K = 0) or columns (D =
            0), x of another D or H, dim out of range, a codebook or mask on another device, a mask that does not
            broadcast, a weight or temperature that is negative, NaN or infinite, an unknown gradient, metric, reduction
            or backend, a key of wrong shape or device, a generator of another device type, more than one of key, seed
            and generator, rows beyond 2^32 in the stream.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.
        Nothing is drawn or changed when an error is raised.

    Source: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017
    (arXiv:1711.00937), eq. 2 and 3; rotation: Fifty et al., "Restructuring Vector Quantization with the Rotation
    Trick", ICLR 2025 (arXiv:2410.06424).

    Example:
        >>> codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
        >>> x = torch.tensor([[0.5, 1.0], [5.0, 4.0]], requires_grad=True)
        >>> quantized, indices, loss = vector_quantize(x, codebook, commitment_weight=1.0, reduction="sum")
        >>> quantized.tolist(), indices.tolist(), loss.item()
        ([[1.0, 1.0], [5.0, 5.0]], [1, 2], 1.25)
        >>> (quantized.sum() + loss).backward()
        >>> x.grad
        tensor([[ 0.,  1.],
                [ 1., -1.]])
    """
    op = "vector_quantize"
    _validate.floating(op, "x", x)
    x, dim = columns_last(op, x, dim)
    _validate.codebook(op, codebook, x)
    _validate.weight(op, "commitment_weight", commitment_weight)
    _validate.weight(op, "codebook_weight", codebook_weight)
    _validate.one_of(op, "gradient", gradient, GRADIENTS)
    _validate.one_of(op, "metric", metric, METRICS)
    lead = x.shape[: x.dim() - codebook.dim() + 1]  # without H and D
    if mask is not None:
        _validate.mask(op, mask, x.device, lead)
    _validate.one_of(op, "reduction", reduction, REDUCTIONS)
    _validate.temperature(op, "temperature", temperature, x.device)
    _validate.noise_source(op, x.device, key, seed, generator)
    shape = x.shape[:-1]
    rows, columns, heads = math.prod(shape), x.shape[-1], math.prod(codebook.shape[:-2])
    _validate.row_range(op, row_offset, rows)
    backend = _backend.resolve(op, backend, x.device.type)
    if codebook.requires_grad and not codebook_weight and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        warn_once(
            op, "codebook_weight", "the codebook requires a gradient and gets none with codebook_weight=0; give it a "
            "weight, or update the codebook by ema_update_ and pass codebook.detach()",
        )  # fmt: skip

    draws = isinstance(temperature, Tensor) or temperature > 0
    noise_key = _rng.make_key(x.device, key, seed, generator) if draws else None
    scalar = split_temperature(temperature, x)
    real: Tensor | None = None
    elements: Tensor | int = max(rows * columns, 1)
    if mask is not None:
        real = mask.expand(lead)
        if codebook.dim() == 3:
            real = real[..., None].expand(shape)
        real = real.reshape(rows)
        elements = real.sum().clamp(min=1) * columns
    options = _Options(
        heads, reduction, metric, scalar.value, row_offset, commitment_weight, codebook_weight,
        gradient == "rotation", backend,
    )  # fmt: skip
    flat_x = x.reshape(rows, columns)
    flat_codes = (codebook if codebook_weight else codebook.detach()).reshape(math.prod(codebook.shape[:-1]), columns)
    if _autograd.needs_function(flat_x, flat_codes):
        quantized, indices, loss, _, _ = _autograd.apply(
            VectorQuantizeFunction, flat_x, flat_codes, real, elements, noise_key, scalar.tensor, options
        )
    else:
        quantized, indices, loss, _ = _quantize(flat_x, flat_codes, real, elements, noise_key, scalar.tensor, options)
    if heads > 1:
        indices = indices.where(indices < 0, indices % codebook.shape[1])
    if x.dim() != 2:  # else they have their shapes, and a view takes microseconds
        quantized, indices = quantized.view(x.shape), indices.view(shape)
        loss = loss.view(shape) if reduction == "none" else loss
    return VectorQuantized(quantized if dim == x.dim() - 1 else quantized.movedim(-1, dim), indices, loss)
