"""The nearest code in plain torch: the definition that every backend gives to the bit.

Products of two float32 are exact in float64, so one order of additions fixes every score: d = 0 ... D-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.nearest_code.formulas import METRICS

_BLOCK = 1 << 20  # scores that exist at a time


def nearest_code(
    x: Tensor, codebook: Tensor, metric: str, precision: str, with_score: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(indices [H, N], their scores [H, N] or empty, counts of re-scored rows and blocks) of x [H, N, D] and codebook
    [H, K, D].

    Every score is in float64 whatever the precision, and none is re-scored. A block is D additions to a matrix: under
    torch.compile they are unrolled, as blocks are.
    """
    heads, rows, _ = x.shape
    num_codes = codebook.shape[1]
    x_columns, code_columns = _columns(x), _columns(codebook)
    scale, offset = _scale_and_offset(code_columns, metric)
    wide = min(num_codes, _BLOCK)
    tall = max(1, _BLOCK // (wide * max(heads, 1)))
    indices, scores = [], []
    for row in range(0, rows, tall):
        best = x.new_full((heads, min(tall, rows - row)), -torch.inf, dtype=torch.float64)
        index = torch.zeros_like(best, dtype=torch.int64)
        for code in range(0, num_codes, wide):
            codes = slice(code, code + wide)
            dot = _dot([c[:, row : row + tall, None] for c in x_columns], [c[:, None, codes] for c in code_columns])
            score = torch.addcmul(-offset[:, None, codes], dot, scale[:, None, codes])
            block_best, block_index = score.where(score.isfinite(), -torch.inf).max(2)
            better = block_best > best  # a later block wins no tie
            best, index = block_best.where(better, best), (block_index + code).where(better, index)
        indices.append(index)
        scores.append(best.where(best.isfinite(), torch.nan))
    index = torch.cat(indices, 1) if indices else x.new_empty((heads, 0), dtype=torch.int64)
    score = x.new_empty((0,), dtype=compute_dtype(x.dtype))
    if with_score:
        score = torch.cat(scores, 1).to(score.dtype) if scores else score.new_empty((heads, 0))
    rescored = torch.zeros((3,), dtype=torch.int64, device=x.device)
    rescored[2:] = heads * rows
    return index, score, rescored


def _columns(x: Tensor) -> tuple[Tensor, ...]:
    """The columns of a matrix for each head, [H, N] each, in float64."""
    return x.to(torch.float64).movedim(2, 0).contiguous().unbind(0)


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Sums of products over the columns, in order."""
    total = torch.zeros_like(a[0] * b[0])
    for first, second in zip(a, b):
        total = torch.addcmul(total, first, second)
    return total


def _scale_and_offset(columns: tuple[Tensor, ...], metric: str) -> tuple[Tensor, Tensor]:
    """The terms of the codes, [H, K] each; a NaN scale where the square of a code is not finite."""
    square = _dot(list(columns), list(columns))
    scale, offset = torch.ones_like(square), torch.zeros_like(square)
    if METRICS[metric].normalised:
        scale = torch.where(square == 0, 0, 1 / _square_root(square))
    if METRICS[metric].distance:
        offset = square / 2
    return scale.where(square.isfinite(), torch.nan), offset


def _square_root(x: Tensor) -> Tensor:
    """Rounded correctly, as in C; torch's own, vectorised on a CPU, is off in the last bit for 1% of all values."""
    root = x.sqrt()
    shifted = root * (2.0**27 + 1)
    high = shifted - (shifted - root)  # half of the digits, so that the products are exact
    low = root - high
    rest = ((x - high * high) - 2 * high * low) - low * low
    return root + rest / (2 * root)
