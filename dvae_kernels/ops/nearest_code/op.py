"""The public functions of the nearest code. It is an index: nothing here is differentiable."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from dvae_kernels import _backend, _validate
from dvae_kernels._rows import by_head, columns_last, from_heads
from dvae_kernels.ops.nearest_code.formulas import METRICS, MetricName
from dvae_kernels.ops.nearest_code.schemas import NEAREST_CODE

Precision = Literal["exact", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class NearestCode(NamedTuple):
    """The result of :func:`nearest_code_scores`."""

    indices: Tensor
    scores: Tensor
    rescored: Tensor


def nearest_code(
    x: Tensor, codebook: Tensor, *, metric: MetricName = "l2", precision: Precision = "exact", dim: int = -1,
    backend: str | None = None,
) -> Tensor:  # fmt: skip
    """Index of the code nearest to every row of `x`, provably the nearest by default; no matrix of distances is made.

    The index is argmax over k of s(k), added up in float64 in the order of the columns:

        l2: s(k) = x . c_k - |c_k|^2 / 2, the largest where |x - c_k| is smallest; cosine: s(k) = x . c_k / |c_k|;
        dot: s(k) = x . c_k

    so that every backend on every device returns the same index. Ties go to the lowest index.

    Args:
        x: the rows, [..., D], or [..., H, D] for a codebook of H heads, with D at `dim`; float32, float64, bfloat16 or
            float16; any strides, copied only where the other dimensions do not collapse to one.
        codebook: the codes, [K, D] with K, D >= 1, or [H, K, D]: a codebook for each of H heads, on the device of x;
            float64 beside float64 x, else any float dtype.
        metric: the name of s, as above. Neither x nor the codes need be normalised.
        precision: "exact": a fast first pass, whose possible error is bounded row by row, and the codes that it leaves
            undecided again in float64. "fp32": scores in float32, so that the chosen one is within float32 rounding of
            the best. "bf16": the same for x and codes rounded to bfloat16. A lower precision permits errors, it does
            not demand them: the CPU backend is always exact.
        dim: the dimension of the columns D: 1 for images [B, D, H, W].
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        indices: int64, [...], or [..., H] with heads: the shape of x without D; not differentiable.

        Defined everywhere: a code with NaN or an infinity is never chosen, nor is one whose |c|^2, or whose score,
        overflows float64; a row without a finite score (a row of x with NaN or an infinity) has index 0; a code of
        zeros has cosine score 0; no rows give an empty result.

    Raises:
        TypeError: for x or a codebook that is not floating-point, float64 beside another dtype, and for arguments of a
            wrong type.
        ValueError: for a codebook of another shape than [K, D] or [H, K, D] or without codes (K = 0) or columns (D =
            0), x of another D or H, dim out of range, a codebook on another device, an unknown metric, precision or
            backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017
    (arXiv:1711.00937), eq. 1 and 2.

    Example:
        >>> codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
        >>> nearest_code(torch.tensor([[0.9, 1.2], [0.1, 0.0]]), codebook)
        tensor([1, 0])
    """
    indices, _, _ = _search("nearest_code", x, codebook, metric, precision, dim, backend, with_score=False)
    return indices


def nearest_code_scores(
    x: Tensor, codebook: Tensor, *, metric: MetricName = "l2", precision: Precision = "exact", dim: int = -1,
    backend: str | None = None,
) -> NearestCode:  # fmt: skip
    """:func:`nearest_code` with the scores of the chosen codes, and how much of the work the first pass left undecided.

    Args:
        x: the rows, [..., D], or [..., H, D] for a codebook of H heads.
        codebook: the codes, [K, D] or [H, K, D].
        metric: the name of s, as for :func:`nearest_code`.
        precision: "exact", "fp32" or "bf16", as for :func:`nearest_code`.
        dim: the dimension of the columns D.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        (indices, scores, rescored), a NamedTuple; none is differentiable.

        indices: int64, [...], or [..., H] with heads: those of :func:`nearest_code`.

        scores: s of the chosen code, in the shape of the indices, in float32 (float64 for float64), rounded once; NaN
        for a row without a finite score. With l2, |x|^2 - 2 scores is the squared distance.

        rescored: 0-dimensional, float64: the share of rows with more than one candidate block of codes after the first
        pass, which a later pass had to decide. It depends on the backend and its blocks, and is 0 where there are no
        rows or no pass came first.

    Raises:
        TypeError, ValueError, BackendUnavailable: as :func:`nearest_code`.

    Source: as for :func:`nearest_code`; the bound that makes it exact is derived on the op's page.

    Example:
        >>> codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
        >>> result = nearest_code_scores(torch.tensor([[0.9, 1.2], [0.1, 0.0]]), codebook)
        >>> result.scores
        tensor([1.1000, 0.0000])
    """
    op = "nearest_code_scores"
    indices, scores, counts = _search(op, x, codebook, metric, precision, dim, backend, with_score=True)
    rescored = counts[0].double() / max(indices.numel(), 1)
    return NearestCode(indices, scores, rescored)


def _search(
    op: str, x: Tensor, codebook: Tensor, metric: MetricName, precision: Precision, dim: int, backend: str | None, *,
    with_score: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(indices, scores or nothing, counts of rescored rows) of checked arguments."""
    _validate.floating(op, "x", x)
    x, _ = columns_last(op, x, dim)
    _validate.codebook(op, codebook, x)
    _validate.one_of(op, "metric", metric, METRICS)
    _validate.one_of(op, "precision", precision, PRECISIONS)
    backend = _backend.resolve(op, backend, x.device.type)
    rows, codes = by_head(x.detach(), codebook.detach())
    indices, scores, counts = NEAREST_CODE[backend](rows, codes, metric, precision, with_score)
    shape = x.shape[:-1]
    return from_heads(indices, shape), from_heads(scores, shape) if with_score else scores, counts
