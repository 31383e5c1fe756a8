"""Gathering and summing codes, which are each other's derivative to any order; statistics of codes and their update."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd, _backend, _validate
from dvae_kernels.ops.codebook.schemas import CODE_STATISTICS, CODE_SUMS, GATHER_CODES

# A cluster of less weight is empty: sums beside it may be subnormal numbers, whose means would be wrong.
_LEAST_SIZE = 2.0**-100


def gather_codes(codebook: Tensor, indices: Tensor, backend: str) -> Tensor:
    """Rows of `codebook` ([K, D]) by int64 `indices` ([...]): [..., D], in the codebook's dtype. Differentiable.

    Index -1 gives zeros and any other index outside [0, K) NaN; neither has a gradient.
    """
    return _autograd.apply_or_forward(GatherCodesFunction, (codebook,), indices, backend)


def code_sums(x: Tensor, indices: Tensor, num_codes: int, backend: str) -> Tensor:
    """Sums of the rows of `x` ([N, D]) by int64 `indices` ([N]): [num_codes, D], in the compute dtype. Differentiable.

    Indices outside [0, num_codes) take no part. The kernels add in one order, fixed by the indices alone: their bits
    are the same for any number of threads and on every device.
    """
    return _autograd.apply_or_forward(CodeSumsFunction, (x,), indices, num_codes, backend)


@_autograd.quick_apply
class GatherCodesFunction(torch.autograd.Function):
    """gather_codes with code_sums as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(codebook: Tensor, indices: Tensor, backend: str) -> Tensor:
        return GATHER_CODES[backend](codebook, indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        codebook, indices, ctx.backend = inputs
        ctx.num_codes, ctx.dtype = codebook.shape[0], codebook.dtype
        ctx.save_for_backward(indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        args = (grad.reshape(indices.numel(), grad.shape[-1]), indices.reshape(-1), ctx.num_codes)
        sums = _autograd.in_backward(code_sums, CODE_SUMS, ctx.backend, *args)
        return sums.to(ctx.dtype), None, None


@_autograd.quick_apply
class CodeSumsFunction(torch.autograd.Function):
    """code_sums with gather_codes as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, indices: Tensor, num_codes: int, backend: str) -> Tensor:
        return CODE_SUMS[backend](x, indices, num_codes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, indices, ctx.num_codes, ctx.backend = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (indices,) = ctx.saved_tensors
        # a row that took no part has gradient zero, not NaN
        index = indices.where((indices >= 0) & (indices < ctx.num_codes), -1)
        rows = _autograd.in_backward(gather_codes, GATHER_CODES, ctx.backend, grad.to(ctx.dtype), index)
        return rows, None, None, None


class CodeStatistics(NamedTuple):
    """The statistics of a batch that update a codebook; parts of a batch on several devices add up."""

    counts: Tensor
    sums: Tensor


def code_statistics(
    x: Tensor,
    indices: Tensor,
    num_codes: int,
    *,
    mask: Tensor | None = None,
    heads: int | None = None,
    backend: str | None = None,
) -> CodeStatistics:
    """How many rows of x have each index, and their sum: the statistics of k-means and of moving averages.

    Nothing of size rows x codes exists, and the result is the same to the bit for any number of threads: no atomics,
    one order of additions. Its cost does not depend on how the rows are spread over the codes.

    Args:
        x: [..., D], or [..., H, D] with heads; float32, float64, bfloat16 or float16; any strides, copied only where
            its rows do not lie at one distance or its columns are apart.
        indices: int64, the shape of x without D. Rows whose index lies outside [0, num_codes) take no part.
        num_codes: the number of codes K, of each head.
        mask: bool, broadcastable to the shape of the indices without heads; rows where it is False take no part.
        heads: the number of codebooks H, each with indices and statistics of its own.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        CodeStatistics(counts, sums): [K] and [K, D], or [H, K] and [H, K, D] with heads, in float32 (float64 for
        float64). Not differentiable. Rows with NaN or an infinite value take no part; codes without rows have zeros,
        and so have all where x is empty. Sums are in the order of the page of this op, in every kernel (the reference
        has torch's).

    Raises:
        TypeError: for an x that is not floating-point, indices that are not int64, a mask that is not bool, and for
            arguments of a wrong type.
        ValueError: for indices or a mask of another shape or on another device, an x whose last dimensions do not hold
            the heads, num_codes or heads below 1, 2^31 - 1 codes or more in all, an unknown backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017
    (arXiv:1711.00937), appendix A.1: n_i and the sums of z_ij of equations 6 to 8.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [torch.nan, 0.0]])
        >>> code_statistics(x, torch.tensor([2, 0, 2, 0]), num_codes=3)
        CodeStatistics(counts=tensor([1., 0., 2.]), sums=tensor([[3., 4.],
                [0., 0.],
                [6., 8.]]))
    """
    op = "code_statistics"
    _validate.floating(op, "x", x)
    _validate.count(op, "num_codes", num_codes)
    if heads is not None:
        _validate.count(op, "heads", heads)
    total = num_codes * (heads or 1)
    if total >= (1 << 31) - 1:
        raise ValueError(f"{op}: expected less than 2^31 - 1 codes, got {total}")
    if x.dim() < 1 or (heads is not None and (x.dim() < 2 or x.shape[-2] != heads)):
        expected = "[..., D]" if heads is None else f"[..., {heads}, D]"
        raise ValueError(f"{op}: expected x of shape {expected}, got {tuple(x.shape)}")
    if not isinstance(indices, Tensor):
        raise TypeError(f"{op}: expected indices to be a Tensor, got {_validate.type_name(indices)}")
    _validate.alike(op, "indices", indices, x.device, torch.int64)
    if indices.shape != x.shape[:-1]:
        raise ValueError(f"{op}: expected indices of shape {tuple(x.shape[:-1])}, got {tuple(indices.shape)}")
    if mask is not None:
        _validate.mask(op, mask, x.device, indices.shape if heads is None else indices.shape[:-1])
    backend = _backend.resolve(op, backend, x.device.type)

    if mask is not None:
        indices = indices.where(mask if heads is None else mask.unsqueeze(-1), -1)
    if heads is not None:
        first = torch.arange(heads, device=x.device) * num_codes
        indices = torch.where((indices >= 0) & (indices < num_codes), indices + first, -1)
    counts, sums = CODE_STATISTICS[backend](x.detach().reshape(indices.numel(), x.shape[-1]), indices.flatten(), total)
    if heads is None:
        return CodeStatistics(counts, sums)
    return CodeStatistics(counts.unflatten(0, (heads, num_codes)), sums.unflatten(0, (heads, num_codes)))


def ema_update_(
    codebook: Tensor,
    cluster_size: Tensor,
    code_sum: Tensor,
    counts: Tensor,
    sums: Tensor,
    *,
    decay: float = 0.99,
    laplace: float = 0.0,
    steps: int | Tensor | None = None,
) -> None:
    """Moves a codebook towards the means of the rows that chose its codes, by exponential moving averages, in place.

        N <- decay N + (1 - decay) n        m <- decay m + (1 - decay) s        code <- m / N

    with the counts n and sums s of a batch, as :func:`code_statistics` gives them. Between the two, parts of a batch
    on several devices are added up (all_reduce).

    Plain torch, on every device: it can be compiled and captured in a CUDA graph. Autograd does not see it, but for the
    tensors' version counters, and a codebook that requires gradients may be given. All values are computed before the
    first is written.

    Args:
        codebook: [K, D], or [H, K, D] with heads; any float dtype. Rewritten.
        cluster_size: the moving averages N of the counts, [K] or [H, K]; float32 or float64, which is what the update
            is computed in. Updated.
        code_sum: the moving averages m of the sums, the shape of the codebook, in the dtype of cluster_size. Updated.
        counts: n, in the shape and dtype of cluster_size.
        sums: s, in the shape and dtype of code_sum.
        decay: in [0, 1]. 0 takes the means of this batch, 1 leaves both averages as they are.
        laplace: eps >= 0 of Laplace smoothing, in counts: divides by (N + eps) / (sum N + K eps) sum N, the sum over
            the codes of a head, instead of N. It moves codes of small clusters towards 0.
        steps: the number t >= 1 of updates, this one included, where both averages began as zeros. Smoothing is then of
            the averages without that bias, N / (1 - decay^t) and m / (1 - decay^t). An int, or an int64 tensor of one
            element (whose value is not looked at), which compiled and captured graphs follow. It makes no difference
            without laplace, since the bias cancels in m / N.

    Returns:
        None. A code whose cluster is empty, or has less weight than 2^-100, keeps its value, and is updated again when
        rows choose it. Statistics of code_statistics hold no value that is not finite, unless a sum of finite rows is
        beyond the largest number.

    Raises:
        TypeError: for tensors that are not floating-point or of another dtype than said above, and for arguments of a
            wrong type.
        ValueError: for tensors of other shapes, on several devices, made in inference mode and written outside it, or
            whose elements share memory where they are written, with each other or with another of the three; decay
            outside [0, 1], laplace that is negative or not finite, an int steps outside [1, 2^32).
        Nothing is changed when an error is raised.

    Source: van den Oord, Vinyals, Kavukcuoglu, NeurIPS 2017 (arXiv:1711.00937), equations 6 to 8; smoothing and bias
    as in Sonnet v2's VectorQuantizerEMA.

    Example:
        >>> codebook, size, total = torch.zeros(3, 2), torch.zeros(3), torch.zeros(3, 2)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> ema_update_(codebook, size, total, *code_statistics(x, torch.tensor([2, 0, 2]), num_codes=3))
        >>> codebook
        tensor([[3., 4.],
                [0., 0.],
                [3., 4.]])
    """
    op = "ema_update_"
    _validate.codebook_shape(op, codebook)
    tensors = {"cluster_size": cluster_size, "code_sum": code_sum, "counts": counts, "sums": sums}
    for name, tensor in tensors.items():
        _validate.floating(op, name, tensor)
        dtypes = (torch.float32, torch.float64) if name == "cluster_size" else (cluster_size.dtype,)
        _validate.alike(op, name, tensor, codebook.device, *dtypes)
        shape = codebook.shape[:-1] if name in ("cluster_size", "counts") else codebook.shape
        if tensor.shape != shape:
            raise ValueError(f"{op}: expected {name} of shape {tuple(shape)}, got {tuple(tensor.shape)}")
    _validate.written(op, {"codebook": codebook, "cluster_size": cluster_size, "code_sum": code_sum})
    _validate.share(op, "decay", decay)
    _validate.weight(op, "laplace", laplace)
    if isinstance(steps, Tensor):
        _validate.alike(op, "steps", steps, codebook.device, torch.int64)
        if steps.numel() != 1:
            raise ValueError(f"{op}: expected steps with one element, got shape {tuple(steps.shape)}")
    elif steps is not None:
        _validate.count(op, "steps", steps)

    with torch.no_grad():
        size = decay * cluster_size + (1 - decay) * counts
        total = decay * code_sum + (1 - decay) * sums
        divisor = size
        if laplace > 0:
            # the bias 1 - decay^t of both averages, moved to eps
            eps = laplace * _bias(decay, steps, size.dtype)
            everything = size.sum(-1, keepdim=True)
            divisor = (size + eps) / (everything + size.shape[-1] * eps) * everything
        codes = torch.where((size >= _LEAST_SIZE).unsqueeze(-1), total / divisor.unsqueeze(-1), codebook)
        cluster_size.copy_(size)
        code_sum.copy_(total)
        codebook.copy_(codes)


def _bias(decay: float, steps: int | Tensor | None, dtype: torch.dtype) -> float | Tensor:
    """1 - decay^steps: of a moving average that began as zero."""
    log_decay = math.log(decay) if decay > 0 else -math.inf
    if isinstance(steps, Tensor):
        return -torch.expm1(steps.to(dtype).reshape(()) * log_decay)
    return 1.0 if steps is None else -math.expm1(steps * log_decay)
