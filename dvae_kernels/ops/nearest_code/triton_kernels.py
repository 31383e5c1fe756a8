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

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._triton.interpreter import INTERPRETED
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
    if INTERPRETED:
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
        weight = tl.where(square < float("inf"), weight, float("nan"))  # of a code that is never chosen
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
    x_ptr, centre_ptr, reach_ptr, limits_ptr, half_ptr, factor_ptr, slack_ptr, single_ptr, begin, rows, padded, D,
    head_stride, stride, accumulation, definition, float32_sums,
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
        code = tl.load(limits_ptr + head * 4)
        code_plain = tl.load(limits_ptr + head * 4 + 3)
        norm = tl.sqrt(square)
        loss = tl.sqrt(error) + norm * 1.1920929e-07
        slack = loss * code + norm * tl.load(limits_ptr + head * 4 + 1)
        slack += (norm + loss) * code * accumulation
        slack += factor * tl.load(limits_ptr + head * 4 + 2) * 4.7683716e-07
        own = tl.sqrt(plain) * code_plain
        if centre_ptr is not None:
            own += factor * code_plain * code_plain
        slack += own * definition
        slack *= 2.02  # two, and what float32 lost in these sums
    slack = tl.where(known & (slack < float("inf")), slack, float("inf"))
    tl.store(slack_ptr + out, tl.where(finite, slack, float("nan")), mask=row < rows)
    # what sums of float32 may be wrong, twice, of x and codes as they are
    code_half = code_exponent >> 1
    norm = tl.sqrt(plain) * _power(-(exponent >> 1)) * _power((exponent >> 1) - exponent)
    code_norm = tl.load(limits_ptr + head * 4 + 3) * _power(-code_half) * _power(code_half - code_exponent)
    own = norm * code_norm + (code_norm * code_norm if centre_ptr is not None else 0.0)
    tl.store(single_ptr + out, own * float32_sums + 1e-24, mask=row < rows)


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
def _products(x_ptr, line_ptr, D, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """x . c of a row and a block, the sum over d in order."""
    total = tl.zeros([BLOCK], ACC)
    for d in range(0, _end(D // 8 * 8), 8):
        # eight loads on their way at a time
        for i in tl.static_range(8):
            total += tl.load(x_ptr + d + i).to(ACC) * tl.load(line_ptr + (d + i) * BLOCK).to(ACC)
    for d in range(_end(D // 8 * 8), _end(D)):
        total += tl.load(x_ptr + d).to(ACC) * tl.load(line_ptr + d * BLOCK).to(ACC)
    return total


@triton.jit
def _scan(
    x_ptr, lines_ptr, weight_ptr, half_square_ptr, maxima_ptr, threshold, codes, blocks, D,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of a row's open blocks, in ACC: each lane's best score, its code, its second best; how many blocks they are; and
    whether a score of a code that can be chosen is beyond float32."""
    lane = tl.arange(0, BLOCK)
    number = tl.arange(0, BLOCKS)
    best = tl.full([BLOCK], float("-inf"), ACC)
    second = best
    index = tl.zeros([BLOCK], tl.int32)
    beyond = index
    taken = tl.full([], 0, tl.int32)
    for start in range(0, _end(blocks), BLOCKS):
        candidate = start + number < blocks
        if maxima_ptr is not None:
            maximum = tl.load(maxima_ptr + start + number, mask=candidate, other=float("-inf"))
            candidate &= maximum >= threshold
        left = tl.where(candidate, start + number, blocks)
        block = tl.min(left, 0)
        while block < blocks:
            score = _products(x_ptr, lines_ptr + block.to(tl.int64) * (BLOCK * D) + lane, D, BLOCK, ACC)
            code = block * BLOCK + lane
            inside = code < codes
            if weight_ptr is not None:
                weight = tl.load(weight_ptr + code, mask=inside, other=0.0)
                score *= weight.to(ACC)
                # so that neither products below float32's range matter nor weights that it has but a few digits of
                beyond |= (inside & ((weight > 1e10) | (weight < 1e-37))).to(tl.int32)
                inside &= weight == weight
            else:
                half_square = tl.load(half_square_ptr + code, mask=inside, other=0.0)
                score -= half_square.to(ACC)
                inside &= half_square < float("inf")
            finite = tl.abs(score) < float("inf")
            beyond |= (inside & (finite == 0)).to(tl.int32)
            # blocks come in order: the first of equal scores stays
            score = tl.where(inside & finite, score, float("-inf"))
            second = tl.maximum(second, tl.minimum(score, best))
            index = tl.where(score > best, code, index)
            best = tl.maximum(best, score)
            taken += 1
            left = tl.where(left == block, blocks, left)
            block = tl.min(left, 0)
    return best, index, second, taken, tl.max(beyond, 0)


@triton.jit
def _decide_kernel(
    x_ptr, lines_ptr, weight_ptr, half_square_ptr, maxima_ptr, slack_ptr, single_ptr, index_ptr, score_ptr,
    rescored_ptr, begin, rows, padded, kept, all_rows, codes, blocks, D, head_stride, stride,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A row's nearest code by the definition, among the blocks whose maximum is within the slack; all without maxima.

    Float32 decides where the best is ahead of all others by more than what it can be wrong."""
    head = tl.program_id(0) // rows
    row = tl.program_id(0) % rows
    x_ptr += head.to(tl.int64) * head_stride + (begin + row).to(tl.int64) * stride
    lines_ptr += head.to(tl.int64) * blocks * BLOCK * D
    if weight_ptr is not None:
        weight_ptr += head.to(tl.int64) * codes
    else:
        half_square_ptr += head.to(tl.int64) * codes
    open = tl.full([], 1, tl.int1)
    threshold = tl.full([], float("-inf"), tl.float32)
    scratch = head * padded + row
    if maxima_ptr is not None:
        slack = tl.load(slack_ptr + scratch)
        open = slack == slack
        number = tl.arange(0, BLOCKS)
        maxima_ptr += scratch.to(tl.int64) * kept
        largest = tl.full([BLOCKS], float("-inf"), tl.float32)
        for start in range(0, _end(blocks), BLOCKS):
            maximum = tl.load(maxima_ptr + start + number, mask=start + number < blocks, other=float("-inf"))
            largest = tl.maximum(largest, maximum)
        threshold = tl.max(largest, 0) - slack

    winner = tl.full([], 0, tl.int32)
    top = tl.full([], float("nan"), tl.float64)
    taken = winner
    if single_ptr is not None:  # noqa: SIM102
        if open:
            best, index, second, taken, beyond = _scan(
                x_ptr, lines_ptr, weight_ptr, half_square_ptr, maxima_ptr, threshold, codes, blocks, D,
                BLOCK, BLOCKS, tl.float32,
            )  # fmt: skip
            first = tl.max(best, 0)
            enough = first - tl.load(single_ptr + scratch)
            close = tl.sum((best >= enough).to(tl.int32) + (second >= enough).to(tl.int32), 0)
            open = (close != 1) | (beyond != 0) | (first == float("-inf"))
            winner = tl.min(tl.where(best == first, index, codes), 0)
    if open:
        wide_best, wide_index, _, taken, _ = _scan(
            x_ptr, lines_ptr, weight_ptr, half_square_ptr, maxima_ptr, threshold, codes, blocks, D,
            BLOCK, BLOCKS, tl.float64,
        )  # fmt: skip
        wide_first = tl.max(wide_best, 0)
        found = wide_first > float("-inf")
        winner = tl.where(found, tl.min(tl.where(wide_best == wide_first, wide_index, codes), 0), 0)
        top = tl.where(found, wide_first, top)
    out = head.to(tl.int64) * all_rows + begin + row
    tl.store(index_ptr + out, winner.to(tl.int64))
    if score_ptr is not None:
        tl.store(score_ptr + out, top.to(score_ptr.dtype.element_ty))
    if maxima_ptr is not None:
        # the counts start from one block for every row
        tl.atomic_add(rescored_ptr, tl.full([], 1, tl.int64), mask=taken > 1, sem="relaxed")
        tl.atomic_add(rescored_ptr + 1, (taken - 1).to(tl.int64), mask=taken != 1, sem="relaxed")


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

    def decide(maxima: Tensor | None, slack: Tensor | None, single: Tensor | None, begin: int, count: int) -> None:
        launch(
            _decide_kernel, heads * count, x, lines, weight, half_square, maxima, slack,
            None if with_score else single, index, score if with_score else None, rescored,
            begin, count, *((0, 0) if maxima is None else maxima.shape[1:]), rows, codes, blocks, columns,
            x.stride(0), x.stride(1), BLOCK=plan.block, BLOCKS=min(512, triton.next_power_of_2(blocks)), num_warps=1,
        )  # fmt: skip

    if blocks == 1 or compute == torch.float64:
        decide(None, None, None, 0, rows)
        return index, score, rescored

    rescored[1] = heads * rows
    prepared = _prepare(codebook, weight, plan)
    width, code_tiles = plan.depth * plan.pieces, prepared.half.shape[1] // _TILE_CODES
    kept = code_tiles * _TILE_CODES // plan.block
    chunk = max(1, min(_SCRATCH // (heads * kept * 4), rows) // _TILE_ROWS) * _TILE_ROWS
    row_tiles = triton.cdiv(min(chunk, rows), _TILE_ROWS)
    padded = row_tiles * _TILE_ROWS
    half = prepared.half.new_empty((heads, padded, width))
    factor, slack, single = prepared.bias.new_empty((3, heads, padded)).unbind()
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
            prepared.reach, prepared.limits, half, factor, slack, single, begin, count, padded, columns, x.stride(0),
            x.stride(1), 2.0**-22 * (columns + 10), 2.0**-52 * (columns + 4), 1.02 * 2.0**-23 * (columns + 8),
            CERTIFIED=precision != "bf16", ROWS=each, BLOCK_D=block_d, TILES=width // block_d, num_warps=4,
        )  # fmt: skip
        launch(
            _block_maxima_kernel, heads * row_tiles * splits, half, prepared.half, prepared.bias, factor, maxima,
            row_tiles, code_tiles, splits, tiles_each, width,
            CODES=plan.block, ROWS=_TILE_ROWS, BLOCK_K=_TILE_CODES, DEPTH=plan.depth, WHOLE=plan.pieces == 1,
            PARTS=parts, RUN=run, LANES=lanes, PAIR=pair, STAGES=plan.stages, num_warps=plan.warps,
        )  # fmt: skip
        decide(maxima, slack, single, begin, count)
    return index, score, rescored
