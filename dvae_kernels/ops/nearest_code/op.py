"""Schema and public function of the nearest code. It is an index: nothing here is differentiable."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _backend, _validate
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels._rows import by_head, from_heads
from dvae_kernels.ops.nearest_code import reference

METRICS = ("l2", "cosine")
PRECISIONS = ("exact", "fp32", "bf16")


class Rescored(NamedTuple):
    """How much of the work the first pass left open: 0-dimensional float64 tensors, 0 where there are no rows."""

    rows: Tensor  # share of rows with more than one candidate block of codes
    blocks: Tensor  # share of pairs of row and block that were scored again


def _fake(x: Tensor, codebook: Tensor, cosine: bool, precision: str, with_score: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[:2]
    return (
        x.new_empty(rows, dtype=torch.int64),
        x.new_empty(rows if with_score else (0,), dtype=compute_dtype(x.dtype)),
        x.new_empty((3,), dtype=torch.int64),
    )


# Of x [H, N, D] and codebook [H, K, D] in any strides: (indices [H, N], scores [H, N] in the compute dtype, empty where
# not asked for, int64 counts of rows with more than one candidate block, of blocks that were scored again, and of all).
NEAREST_CODE = define_op(
    "nearest_code(Tensor x, Tensor codebook, bool cosine, str precision, bool with_score) -> (Tensor, Tensor, Tensor)",
    reference=reference.nearest_code,
    triton="dvae_kernels.ops.nearest_code.triton_kernels:nearest_code",
    fake=_fake,
)


def nearest_code(
    x: Tensor,
    codebook: Tensor,
    metric: str = "l2",
    precision: str = "exact",
    return_score: bool = False,
    return_rescored: bool = False,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor | Rescored, ...]:
    """Index of the code nearest to every row of `x`, provably the nearest by default; no matrix of distances is made.

    The index is argmax over k of s(k), added up in float64 in the order of the columns:

        l2: s(k) = x . c_k - |c_k|^2 / 2, the largest where |x - c_k| is smallest; cosine: s(k) = x . c_k / |c_k|

    so that every backend on every device returns the same index. Ties go to the lowest index.

    Args:
        x: the rows, [..., D], or [..., H, D] for a codebook of H heads; float32, float64, bfloat16 or float16; any
            strides, copied only where the leading dimensions do not collapse to one.
        codebook: the codes, [K, D] with K, D >= 1, or [H, K, D]: a codebook for each of H heads, on the device of x;
            float64 beside float64 x, else any float dtype.
        metric: "l2" or "cosine". Neither x nor the codes need be normalised.
        precision: "exact": a fast first pass, whose possible error is bounded row by row, and the codes that it leaves
            open again in float64. "fp32": scores in float32, so that the chosen one is within float32 rounding of the
            best. "bf16": the same for x and codes rounded to bfloat16. A lower precision permits errors, it does not
            demand them: the CPU backend is always exact.
        return_score: return the chosen codes' scores as well.
        return_rescored: return how much of the work the first pass left open as well.
        backend: "cpp", "triton", "cuda" or "reference" instead of the automatic choice.

    Returns:
        indices, or a tuple (indices, score, rescored) of those asked for; none is differentiable.

        indices: int64, [...], or [..., H] with heads.

        score: s of the chosen code, in the shape of the indices, in float32 (float64 for float64), rounded once:
        |x|^2 - 2 score is the squared distance to it.

        rescored: a NamedTuple of two 0-dimensional float64 tensors: `rows`, the share of rows with more than one
        candidate block of codes after the first pass, and `blocks`, the share of pairs of row and block that were
        scored again. They depend on the backend and its blocks, and are 0 where no pass came first.

        Defined everywhere: a code whose score is not finite (a code with NaN or an infinity) is never chosen; a row
        without a finite score (a row of x with NaN or an infinity) has index 0 and score NaN; a code of zeros has
        cosine score 0; no rows give empty results.

    Raises:
        TypeError: for x or a codebook that is not floating-point, float64 beside another dtype, and for arguments of a
            wrong type.
        ValueError: for a codebook of another shape than [K, D] or [H, K, D] or without codes (K = 0) or columns (D =
            0), x of another D or H, a codebook on another device, an unknown metric, precision or backend.
        BackendUnavailable: for a named backend that cannot run here, with the reasons.

    Source: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", NeurIPS 2017
    (arXiv:1711.00937), eq. 1 and 2.

    Example:
        >>> codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
        >>> indices, score = nearest_code(torch.tensor([[0.9, 1.2], [0.1, 0.0]]), codebook, return_score=True)
        >>> indices
        tensor([1, 0])
        >>> score
        tensor([1.1000, 0.0000])
    """
    op = "nearest_code"
    _validate.floating(op, "x", x)
    _validate.codebook(op, codebook, x)
    _validate.one_of(op, "metric", metric, METRICS)
    _validate.one_of(op, "precision", precision, PRECISIONS)
    _validate.boolean(op, "return_score", return_score)
    _validate.boolean(op, "return_rescored", return_rescored)
    backend = _backend.resolve(op, backend, x.device.type)

    rows, codes = by_head(x.detach(), codebook.detach())
    indices, scores, counts = NEAREST_CODE[backend](rows, codes, metric == "cosine", precision, return_score)
    result: list[Tensor | Rescored] = [from_heads(indices, x.shape[:-1])]
    if return_score:
        result.append(from_heads(scores, x.shape[:-1]))
    if return_rescored:
        shares = counts[:2] / torch.stack((counts.new_full((), indices.numel()), counts[2])).clamp(min=1).double()
        result.append(Rescored(*shares.unbind()))
    return tuple(result) if len(result) > 1 else result[0]
