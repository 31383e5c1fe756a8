"""Nearest codes in Triton: tensor cores narrow the codes down to few blocks, float64 decides inside them.

The codebook is prepared once a call: centred, scaled by a power of two, rounded to float16. Then, in chunks of rows:
1. `_half_rows_kernel` does the same to x, and bounds what a row's scores lose by it.
2. `_block_maxima_kernel` multiplies, and keeps of every block of codes its largest score.
3. `_decide_kernel` scores the blocks that can hold the winner by the definition, in float64, in order.

The bound. Let x', c' be centred and scaled, xh, ch their float16 values (never subnormal: those are zeros), f the power
of two that gives |c'|^2/2 a row's scale; max over the codes. Each maximum is within B of the definition's score, where

    B = |x' - xh| max|ch| + |x'| max|c' - ch|       rounding to float16
      + 2^-23 |x'| max|ch|                          rounding x - m to float32; c - m is taken in float64
      + 2^-22 (D + 10) |xh| max|ch|                 accumulation, 16 terms at a time, cut off at 2^-23 of the largest
      + 2^-21 f max|c'|^2/2                         |c'|^2/2 rounded, and added; best - 2B itself
      + 2^-52 (D + 4) (|x| max|c| + f max|c|^2)     the definition's own rounding, not centred

so that a block whose maximum is below best - 2B cannot hold the winner, nor a code that ties with it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._rng import compute_dtype
from dvae_kernels._triton.philox import _INTERPRETED
from dvae_kernels._triton.rows import launch

_TILE_ROWS = 128  # of x in a matrix product
_TILE_CODES = 128
_PROGRAMS = 1024  # of a matrix product, at least, where it has as many tiles: four waves of two a multiprocessor
_SCRATCH = 32 << 20  # bytes of block maxima, so that they stay in the L2 cache
_MEASURED = 32  # codes of a program that sums their squares


class _Plan(NamedTuple):
    """How one shape is cut up."""

    block: int  # codes, of which pass 1 keeps one maximum
    depth: int  # of D: columns of a tile, a power of two
    pieces: int  # such tiles that hold D
    warps: int
    stages: int  # tiles of codes on their way

    @property
    def groups(self) -> tuple[int, int, int, int]:
        """A tile's codes as [part, run, lane, pair]: a block has all runs and pairs of one part and one lane.

        In the registers of a matrix product a thread holds pairs of columns, and every fourth thread the same ones, so
        that blocks of up to 32 codes are reduced within a thread.
        """
        lanes, pair = (2, 4) if self.block == 64 else (4, 2)
        run = self.block // pair
        return _TILE_CODES // (run * lanes * pair), run, lanes, pair


class _Gpu(NamedTuple):
    shared: int = 232448  # bytes that a program can have
    arch: int = 90


def _plan(columns: int, gpu: _Gpu) -> _Plan:
    """Blocks: a maximum is written and read, and the codes of a block are read for every row: about sqrt(2K / D)."""
    block = 64 if columns <= 16 else 32 if columns <= 64 else 16
    depth = triton.next_power_of_2(max(columns, 16))
    # Blackwell's threads get whole rows of a product, and every |c|^2/2 beside them
    warps = 8 if gpu.arch // 10 == 10 else 4
    if depth <= 64:
        return _Plan(block, depth, 1, warps, 3)
    # rows are kept while two tiles of codes come in
    if depth <= 256 and 3 * _TILE_CODES * depth * 2 + 4096 <= gpu.shared:
        return _Plan(block, depth, 1, 8 if depth == 256 else warps, 2)
    return _Plan(block, 64, triton.cdiv(columns, 64), 4 if gpu.arch // 10 == 9 else 8, 3)


@triton.jit
def _end(n):
    """The end of a range, which in the interpreter has to be a number of Python's."""
    if _INTERPRETED:
        return n.handle.data.item()
    else:
        return n


@triton.jit
def _shift(largest):
    """n for which 2^n takes float32 `largest` to between 2^14 and 2^15, near float16's end; at most 141."""
    return 141 - ((largest.to(tl.int32, bitcast=True) >> 23) & 255)


@triton.jit
def _power(n):
    """2^n in float32, for n from -126 to 127."""
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _power64(n):
    return ((n + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _half(x):
    """Float32 rounded to float16, zero where that is subnormal."""
    return tl.where(tl.abs(x) >= 0.00006103515625, x, 0.0).to(tl.float16)


@triton.jit
def _wide(x):
    """Any float dtype in float64."""
    return x if x.dtype == tl.float64 else x.to(tl.float32).to(tl.float64)


@triton.jit
def _measure_codes_kernel(
    code_ptr, weight_ptr, half_square_ptr, codes, D, head_stride, stride,
    COSINE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The definition's w and h of every code; the sum over d is in order."""
    head = tl.program_id(0) // tl.cdiv(codes, ROWS)
    code = tl.program_id(0) % tl.cdiv(codes, ROWS) * ROWS + tl.arange(0, ROWS)
    ptr = code_ptr + head.to(tl.int64) * head_stride + code.to(tl.int64) * stride
    square = tl.zeros([ROWS], tl.float64)
    for d in range(0, _end(D), 4):
        for i in tl.static_range(4):
            c = _wide(tl.load(ptr + d + i, mask=(code < codes) & (d + i < D), other=0.0))
            square += c * c
    out = head.to(tl.int64) * codes + code
    if COSINE:
        weight = tl.where(square == 0, 0.0, 1.0 / tl.sqrt(tl.where(square == 0, 1.0, square)))
        tl.store(weight_ptr + out, weight, mask=code < codes)
    else:
        tl.store(half_square_ptr + out, square * 0.5, mask=code < codes)


@triton.jit
def _load_centred(
    code_ptr, weight_ptr, centre_ptr, head, code, col, codes, D, head_stride, stride, COSINE: tl.constexpr
):  # fmt: skip
    """(codes [ROWS, BLOCK_D] in float64, of unit length for the cosine; the same less the centre)."""
    inside = (code < codes)[:, None] & (col < D)[None, :]
    offset = head.to(tl.int64) * head_stride + code.to(tl.int64)[:, None] * stride + col[None, :]
    c = _wide(tl.load(code_ptr + offset, mask=inside, other=0.0))
    if COSINE:
        c *= tl.load(weight_ptr + head.to(tl.int64) * codes + code, mask=code < codes, other=0.0)[:, None]
    centre = tl.load(centre_ptr + head * D + col, mask=col < D, other=0.0).to(tl.float64)
    return c, tl.where(inside, c - centre[None, :], 0.0)


@triton.jit
def _reach_kernel(
    code_ptr, weight_ptr, centre_ptr, reach_ptr, codes, D, head_stride, stride,
    COSINE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The largest element of every centred code; 0 of one that is not finite."""
    head = tl.program_id(0) // tl.cdiv(codes, ROWS)
    code = tl.program_id(0) % tl.cdiv(codes, ROWS) * ROWS + tl.arange(0, ROWS)
    reach = tl.zeros([ROWS], tl.float32)
    finite = code < codes
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)
        _, c = _load_centred(
            code_ptr, weight_ptr, centre_ptr, head, code, col, codes, D, head_stride, stride, COSINE
        )  # fmt: skip
        finite &= tl.min((tl.abs(c) < float("inf")).to(tl.int32), 1) == 1
        reach = tl.maximum(reach, tl.max(tl.abs(c).to(tl.float32), 1))
    out = reach_ptr + head.to(tl.int64) * codes + code
    tl.store(out, tl.where(finite, reach, 0.0), mask=code < codes)


@triton.jit
def _pack_codes_kernel(
    code_ptr, weight_ptr, centre_ptr, reach_ptr, half_ptr, bias_ptr, limits_ptr, codes, padded, D,
    head_stride, stride, COSINE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, RUN: tl.constexpr,
    LANES: tl.constexpr, PAIR: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """One block of codes: float16 in the order of _Plan.groups, |c'|^2/2 (inf where the code is not finite), and
    |ch|, |c' - ch|, |c'|^2/2, |c|, whose maxima bound a row's error."""
    blocks = padded // BLOCK
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    code = block * BLOCK + tl.arange(0, BLOCK)
    scale = _power64(_shift(tl.load(reach_ptr + head)))
    tile_block = block % (TILE // BLOCK)
    run = tl.arange(0, BLOCK) // PAIR
    place = ((tile_block // LANES * RUN + run) * LANES + tile_block % LANES) * PAIR + tl.arange(0, BLOCK) % PAIR
    first = head.to(tl.int64) * padded
    place = first + block // (TILE // BLOCK) * TILE + place
    half_square = tl.zeros([BLOCK], tl.float64)
    error = tl.zeros([BLOCK], tl.float64)
    rounded = tl.zeros([BLOCK], tl.float64)
    plain = tl.zeros([BLOCK], tl.float64)
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)
        length, c = _load_centred(
            code_ptr, weight_ptr, centre_ptr, head, code, col, codes, D, head_stride, stride, COSINE
        )  # fmt: skip
        c *= scale
        length *= scale
        half = _half(tl.where(tl.abs(c) < 65504, c, 0.0).to(tl.float32))
        tl.store(half_ptr + place[:, None] * (TILES * BLOCK_D) + col[None, :], half)
        wide = half.to(tl.float32).to(tl.float64)
        half_square += tl.sum(c * c, 1) * 0.5
        error += tl.sum((c - wide) * (c - wide), 1)
        rounded += tl.sum(wide * wide, 1)
        plain += tl.sum(length * length, 1)
    there = (code < codes) & (half_square < float("inf"))
    bias = 0.0 if COSINE else half_square
    tl.store(bias_ptr + place, tl.where(there, bias, float("inf")).to(tl.float32))
    limits = limits_ptr + first * 4 + code
    tl.store(limits, tl.where(there, tl.sqrt(rounded), 0.0).to(tl.float32))
    tl.store(limits + padded, tl.where(there, tl.sqrt(error), 0.0).to(tl.float32))
    tl.store(limits + 2 * padded, tl.where(there, bias, 0.0).to(tl.float32))
    tl.store(limits + 3 * padded, tl.where(there, tl.sqrt(plain), 0.0).to(tl.float32))


@triton.jit
def _half_rows_kernel(
    x_ptr, centre_ptr, reach_ptr, limits_ptr, half_ptr, factor_ptr, slack_ptr, begin, rows, padded, D,
    head_stride, stride, accumulation, definition,
    CERTIFIED: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Rows begin to begin + rows of x, centred (not for the cosine), scaled and rounded; f; and the slack 2B: inf where
    nothing is known, NaN for a row that is not finite."""
    head = tl.program_id(0) // tl.cdiv(rows, ROWS)
    row = tl.program_id(0) % tl.cdiv(rows, ROWS) * ROWS + tl.arange(0, ROWS)
    x_ptr += head.to(tl.int64) * head_stride + (begin + row)[:, None].to(tl.int64) * stride
    largest = tl.zeros([ROWS], tl.float32)
    finite = row < rows
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + col[None, :], mask=(row < rows)[:, None] & (col < D)[None, :], other=0.0).to(tl.float32)
        finite &= tl.min((tl.abs(x) < float("inf")).to(tl.int32), 1) == 1
        if centre_ptr is not None:
            x -= tl.load(centre_ptr + head * D + col, mask=col < D, other=0.0)[None, :]
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
    exponent = _shift(largest)
    code_exponent = _shift(tl.load(reach_ptr + head))
    if centre_ptr is not None:
        # what is lost of a row far smaller than the codes is less than the rounding of |c'|^2/2
        exponent = tl.minimum(exponent, code_exponent + 8)
    factor = _power(tl.maximum(exponent - code_exponent, -126) if centre_ptr is not None else exponent * 0)
    scale = _power(exponent >> 1)[:, None]
    rest = _power(exponent - (exponent >> 1))[:, None]
    known = finite & (largest < float("inf"))
    square = tl.zeros([ROWS], tl.float32)
    error = tl.zeros([ROWS], tl.float32)
    plain = tl.zeros([ROWS], tl.float32)
    out = (head * padded + row).to(tl.int64)
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + col[None, :], mask=known[:, None] & (col < D)[None, :], other=0.0).to(tl.float32)
        length = x * scale * rest
        if centre_ptr is not None:
            centre = tl.load(centre_ptr + head * D + col, mask=col < D, other=0.0)[None, :]
            x = tl.where(known[:, None], x - centre, 0.0)
        x = x * scale * rest
        half = _half(x)
        difference = x - half.to(tl.float32)
        square += tl.sum(x * x, 1)
        error += tl.sum(difference * difference, 1)
        plain += tl.sum(length * length, 1)
        tl.store(half_ptr + out[:, None] * (TILES * BLOCK_D) + col[None, :], half, mask=(row < rows)[:, None])
    tl.store(factor_ptr + out, factor, mask=row < rows)
    slack = tl.zeros([ROWS], tl.float32)
    if CERTIFIED:
        limits_ptr += head * 4
        code = tl.load(limits_ptr)
        code_plain = tl.load(limits_ptr + 3)
        norm = tl.sqrt(square)
        loss = tl.sqrt(error) + norm * 1.1920929e-07
        slack = loss * code + norm * tl.load(limits_ptr + 1)
        slack += (norm + loss) * code * accumulation
        slack += factor * tl.load(limits_ptr + 2) * 4.7683716e-07
        own = tl.sqrt(plain) * code_plain
        if centre_ptr is not None:
            own += factor * code_plain * code_plain
        slack += own * definition
        slack *= 2.02  # two, and what float32 lost in these sums
    slack = tl.where(known & (slack < float("inf")), slack, float("inf"))
    tl.store(slack_ptr + out, tl.where(finite, slack, float("nan")), mask=row < rows)


@triton.jit
def _block_maxima_kernel(
    half_ptr, code_ptr, bias_ptr, factor_ptr, maxima_ptr, row_tiles, code_tiles, splits, tiles_each,
    columns, CODES: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr,
    PARTS: tl.constexpr, RUN: tl.constexpr, LANES: tl.constexpr, PAIR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The largest score of every block for ROWS rows and `tiles_each` tiles of codes. Neighbours share their codes."""
    width = DEPTH if WHOLE else columns
    row_tile = tl.program_id(0) % row_tiles
    split = tl.program_id(0) // row_tiles % splits
    head = tl.program_id(0) // (row_tiles * splits)
    row = (head * row_tiles + row_tile) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, DEPTH)
    lane = tl.arange(0, BLOCK_K)
    row_ptr = half_ptr + row[:, None].to(tl.int64) * width + col[None, :]
    code_ptr += head.to(tl.int64) * code_tiles * BLOCK_K * width
    bias_ptr += head.to(tl.int64) * code_tiles * BLOCK_K
    factor = tl.load(factor_ptr + row)[:, None]
    blocks = code_tiles * (BLOCK_K // CODES)
    part = tl.arange(0, PARTS)[None, :, None] * LANES + tl.arange(0, LANES)[None, None, :]
    out_ptr = maxima_ptr + row[:, None, None].to(tl.int64) * blocks + part
    if WHOLE:
        x = tl.load(row_ptr)
    first = split * tiles_each
    for step in tl.range(0, _end(tl.minimum(tiles_each, code_tiles - first)), num_stages=STAGES):
        tile = first + step
        tile_ptr = code_ptr + (tile.to(tl.int64) * BLOCK_K + lane)[:, None] * width + col[None, :]
        bias = tl.load(bias_ptr + tile * BLOCK_K + lane)
        if WHOLE:
            score = tl.dot(x, tl.load(tile_ptr).T)
        else:
            score = tl.zeros([ROWS, BLOCK_K], tl.float32)
            for start in tl.range(0, _end(width), DEPTH, num_stages=STAGES):
                score = tl.dot(tl.load(row_ptr + start), tl.load(tile_ptr + start).T, score)
        score -= bias[None, :] * factor
        score = tl.reshape(score, [ROWS, PARTS, RUN, LANES, PAIR])
        tl.store(out_ptr + tile * (BLOCK_K // CODES), tl.max(tl.max(score, 2), 3))


@triton.jit
def _decide_kernel(
    x_ptr, lines_ptr, weight_ptr, half_square_ptr, maxima_ptr, slack_ptr, index_ptr, score_ptr, rescored_ptr,
    begin, rows, padded, kept, all_rows, codes, blocks, D, head_stride, stride,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The nearest code by the definition among the blocks whose maximum is within the slack; all without maxima."""
    head = tl.program_id(0) // tl.cdiv(rows, ROWS)
    row = tl.program_id(0) % tl.cdiv(rows, ROWS) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    x_ptr += head.to(tl.int64) * head_stride + (begin + row)[:, None].to(tl.int64) * stride
    lane = tl.arange(0, BLOCK)[None, :]
    lines_ptr += head.to(tl.int64) * blocks * BLOCK * D + lane
    entry = head.to(tl.int64) * codes
    number = tl.arange(0, BLOCKS)[None, :]
    scratch = (head * padded + row).to(tl.int64)
    live = there
    threshold = tl.full([ROWS], float("-inf"), tl.float32)
    if maxima_ptr is not None:
        slack = tl.load(slack_ptr + scratch, mask=there, other=float("nan"))
        live = slack == slack
        maxima_ptr += scratch[:, None] * kept + number
        best = threshold
        for start in range(0, _end(blocks), BLOCKS):
            mask = live[:, None] & (start + number < blocks)
            best = tl.maximum(best, tl.max(tl.load(maxima_ptr + start, mask=mask, other=float("-inf")), 1))
        threshold = best - slack

    score = tl.full([ROWS, BLOCK], float("-inf"), tl.float64)
    index = tl.zeros([ROWS, BLOCK], tl.int32)
    taken = tl.zeros([ROWS], tl.int32)
    for start in range(0, _end(blocks), BLOCKS):
        candidate = live[:, None] & (start + number < blocks)
        if maxima_ptr is not None:
            maximum = tl.load(maxima_ptr + start, mask=candidate, other=float("-inf"))
            candidate &= maximum >= threshold[:, None]
        left = tl.where(candidate, start + number, blocks)
        block = tl.min(left, 1)
        while tl.min(block, 0) < blocks:
            open = block < blocks
            # a row that has no block left looks at the first, and takes nothing from it
            line = lines_ptr + tl.where(open, block, 0).to(tl.int64)[:, None] * (BLOCK * D)
            total = tl.zeros([ROWS, BLOCK], tl.float64)
            for d in range(0, _end(D), 8):
                # eight loads on their way at a time
                for i in tl.static_range(8):
                    mask = open & (d + i < D)
                    x = _wide(tl.load(x_ptr + d + i, mask=mask[:, None], other=0.0))
                    c = _wide(tl.load(line + (d + i) * BLOCK, mask=mask[:, None], other=0.0))
                    total += x * c
            code = block[:, None] * BLOCK + lane
            inside = open[:, None] & (code < codes)
            if weight_ptr is not None:
                total *= tl.load(weight_ptr + entry + code, mask=inside, other=0.0)
            else:
                total -= tl.load(half_square_ptr + entry + code, mask=inside, other=0.0)
            # blocks come in order: the first of equal scores stays
            better = inside & (tl.abs(total) < float("inf")) & (total > score)
            score = tl.where(better, total, score)
            index = tl.where(better, code, index)
            taken += open.to(tl.int32)
            left = tl.where(left == block[:, None], blocks, left)
            block = tl.min(left, 1)

    best_score = tl.max(score, 1)
    found = best_score > float("-inf")
    winner = tl.min(tl.where(score == best_score[:, None], index, codes), 1)
    out = head.to(tl.int64) * all_rows + begin + row
    tl.store(index_ptr + out, tl.where(found, winner, 0).to(tl.int64), mask=there)
    if score_ptr is not None:
        nothing = tl.full([ROWS], float("nan"), tl.float64)
        tl.store(score_ptr + out, tl.where(found, best_score, nothing).to(score_ptr.dtype.element_ty), mask=there)
    if maxima_ptr is not None:
        # the counts start from one block for every row
        many = tl.sum((taken > 1).to(tl.int32), 0)
        more = tl.sum(tl.where(there, taken - 1, 0), 0)
        tl.atomic_add(rescored_ptr, many.to(tl.int64), mask=many != 0, sem="relaxed")
        tl.atomic_add(rescored_ptr + 1, more.to(tl.int64), mask=more != 0, sem="relaxed")


class _Codes(NamedTuple):
    """A codebook prepared for pass 1; [heads, ...]."""

    half: Tensor  # float16 [padded codes, padded D]
    bias: Tensor  # float32 [padded codes]
    centre: Tensor  # float32 [D]
    reach: Tensor  # float32 []: the largest element of a centred code
    limits: Tensor  # float32 [4]


def _prepare(codebook: Tensor, weight: Tensor | None, plan: _Plan) -> _Codes:
    heads, codes, columns = codebook.shape
    padded, width = triton.cdiv(codes, _TILE_CODES) * _TILE_CODES, plan.depth * plan.pieces
    if weight is None:
        mean = codebook.mean(1, dtype=torch.float64)
    else:
        mean = (weight.float()[:, None] @ codebook.float())[:, 0] / codes
    centre = mean.float().nan_to_num(0.0, 0.0, 0.0)
    reach = centre.new_empty((heads, codes))
    block_d = min(plan.depth, 64)
    tile = {"COSINE": weight is not None, "BLOCK_D": block_d, "TILES": width // block_d, "num_warps": 4}
    each = 1024 // block_d
    launch(
        _reach_kernel, heads * triton.cdiv(codes, each), codebook, weight, centre, reach, codes, columns,
        codebook.stride(0), codebook.stride(1), ROWS=each, **tile,
    )  # fmt: skip
    reach = reach.amax(1)
    half = codebook.new_empty((heads, padded, width), dtype=torch.float16)
    bias = centre.new_empty((heads, padded))
    limits = centre.new_empty((heads, 4, padded))
    _, run, lanes, pair = plan.groups
    launch(
        _pack_codes_kernel, heads * padded // plan.block, codebook, weight, centre, reach, half, bias, limits, codes,
        padded, columns, codebook.stride(0), codebook.stride(1),
        BLOCK=plan.block, TILE=_TILE_CODES, RUN=run, LANES=lanes, PAIR=pair, **tile,
    )  # fmt: skip
    return _Codes(half, bias, centre, reach, limits.amax(2))


def _lines(codebook: Tensor, block: int) -> Tensor:
    """Blocks of codes as [D, block], so that neighbours in memory are codes."""
    heads, codes, columns = codebook.shape
    blocks = triton.cdiv(codes, block)
    padded = torch.nn.functional.pad(codebook, (0, 0, 0, blocks * block - codes))
    return padded.reshape(heads, blocks, block, columns).transpose(2, 3).contiguous()


@lru_cache
def _gpu(device: torch.device) -> _Gpu:
    """That of `device`; an H100 where there is none."""
    if device.type != "cuda":
        return _Gpu()
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    major, minor = torch.cuda.get_device_capability(index)
    return _Gpu(properties["max_shared_mem"], 10 * major + minor)


def nearest_code(
    x: Tensor, codebook: Tensor, cosine: bool, precision: str, with_score: bool
) -> tuple[Tensor, Tensor, Tensor]:
    heads, rows, columns = x.shape
    codes = codebook.shape[1]
    plan = _plan(columns, _gpu(x.device))
    compute = compute_dtype(torch.promote_types(x.dtype, codebook.dtype))
    index = x.new_empty((heads, rows), dtype=torch.int64)
    score = x.new_empty((heads, rows) if with_score else (0,), dtype=compute)
    rescored = torch.zeros(3, dtype=torch.int64, device=x.device)
    if index.numel() == 0:
        return index, score, rescored
    x, codebook = (t if t.stride(2) == 1 else t.contiguous() for t in (x, codebook))

    measure = codebook.new_empty((heads, codes), dtype=torch.float64)
    weight, half_square = (measure, None) if cosine else (None, measure)
    launch(
        _measure_codes_kernel, heads * triton.cdiv(codes, _MEASURED), codebook, weight, half_square, codes, columns,
        codebook.stride(0), codebook.stride(1), COSINE=cosine, ROWS=_MEASURED, num_warps=1,
    )  # fmt: skip
    lines = _lines(codebook, plan.block)
    blocks = lines.shape[1]
    rescored[2] = heads * rows * blocks

    def decide(maxima: Tensor | None, slack: Tensor | None, begin: int, count: int) -> None:
        each = 64 if _INTERPRETED else 2  # the interpreter takes its time by program
        launch(
            _decide_kernel, heads * triton.cdiv(count, each), x, lines, weight, half_square, maxima, slack, index,
            score if with_score else None, rescored, begin, count, 0 if maxima is None else maxima.shape[1],
            0 if maxima is None else maxima.shape[2], rows, codes, blocks, columns, x.stride(0), x.stride(1),
            BLOCK=plan.block, ROWS=each, BLOCKS=min(128, triton.next_power_of_2(blocks)), num_warps=1,
        )  # fmt: skip

    if blocks == 1 or compute == torch.float64:
        decide(None, None, 0, rows)
        return index, score, rescored

    rescored[1] = heads * rows
    prepared = _prepare(codebook, weight, plan)
    width, code_tiles = plan.depth * plan.pieces, prepared.half.shape[1] // _TILE_CODES
    kept = code_tiles * _TILE_CODES // plan.block
    chunk = max(1, min(_SCRATCH // (heads * kept * 4), rows) // _TILE_ROWS) * _TILE_ROWS
    row_tiles = triton.cdiv(min(chunk, rows), _TILE_ROWS)
    padded = row_tiles * _TILE_ROWS
    half = prepared.half.new_empty((heads, padded, width))
    factor, slack = prepared.bias.new_empty((2, heads, padded)).unbind()
    maxima = prepared.bias.new_empty((heads, padded, kept))
    splits = min(code_tiles, triton.cdiv(_PROGRAMS, heads * row_tiles))
    tiles_each = triton.cdiv(code_tiles, splits)
    splits = triton.cdiv(code_tiles, tiles_each)
    block_d = min(width & -width, 256)
    each = 2048 // block_d
    parts, run, lanes, pair = plan.groups
    for begin in range(0, rows, padded):
        count = min(padded, rows - begin)
        launch(
            _half_rows_kernel, heads * triton.cdiv(count, each), x, None if cosine else prepared.centre,
            prepared.reach, prepared.limits, half, factor, slack, begin, count, padded, columns, x.stride(0),
            x.stride(1), 2.0**-22 * (columns + 10), 2.0**-52 * (columns + 4),
            CERTIFIED=precision != "bf16", ROWS=each, BLOCK_D=block_d, TILES=width // block_d, num_warps=4,
        )  # fmt: skip
        launch(
            _block_maxima_kernel, heads * row_tiles * splits, half, prepared.half, prepared.bias, factor, maxima,
            row_tiles, code_tiles, splits, tiles_each, width,
            CODES=plan.block, ROWS=_TILE_ROWS, BLOCK_K=_TILE_CODES, DEPTH=plan.depth, WHOLE=plan.pieces == 1,
            PARTS=parts, RUN=run, LANES=lanes, PAIR=pair, STAGES=plan.stages, num_warps=plan.warps,
        )  # fmt: skip
        decide(maxima, slack, begin, count)
    return index, score, rescored
