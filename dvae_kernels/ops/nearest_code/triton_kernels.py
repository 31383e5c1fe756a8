"""Nearest codes in Triton: tensor cores narrow the codes down to few blocks, float64 decides inside them.

The codebook is packed once a call (triton_packing.py). Then, in chunks of rows:
1. `_half_rows_kernel` packs x, and bounds what a row's scores lose by it.
2. `_block_maxima_kernel` multiplies, and keeps of every block of codes its largest score.
3. `_decide_kernel` scores the blocks that can hold the winner by the definition, in float64, in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._triton.rows import launch
from dvae_kernels.ops.nearest_code.formulas import METRICS
from dvae_kernels.ops.nearest_code.schemas import new_nearest
from dvae_kernels.ops.nearest_code.triton_packing import (
    TILE_CODES,
    PackedRows,
    code_terms,
    gpu_of,
    new_packed_rows,
    pack_codes,
    pack_rows,
    plan_of,
    range_end,
)

_TILE_ROWS = 128  # of x in a matrix product
_PROGRAMS = 1024  # of a matrix product, at least, where it has as many tiles: four waves of two a multiprocessor
_SCRATCH = 32 << 20  # bytes of block maxima, so that they stay in the L2 cache


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
        x = tl.load(row_ptr)  # [ROWS, DEPTH]
    first = split * tiles_each
    for step in tl.range(0, range_end(tl.minimum(tiles_each, code_tiles - first)), num_stages=STAGES):
        tile = first + step
        tile_ptr = code_ptr + (tile.to(tl.int64) * BLOCK_K + lane)[:, None] * width + col[None, :]
        bias = tl.load(bias_ptr + tile * BLOCK_K + lane)
        if WHOLE:
            score = tl.dot(x, tl.load(tile_ptr).T)  # [ROWS, BLOCK_K]
        else:
            score = tl.zeros([ROWS, BLOCK_K], tl.float32)  # [ROWS, BLOCK_K]
            for start in tl.range(0, range_end(width), DEPTH, num_stages=STAGES):
                score = tl.dot(tl.load(row_ptr + start), tl.load(tile_ptr + start).T, score)
        score -= bias[None, :] * factor
        score = tl.reshape(score, [ROWS, PARTS, RUN, LANES, PAIR])
        tl.store(out_ptr + tile * (BLOCK_K // CODES), tl.max(tl.max(score, 2), 3))


@triton.jit
def _products(x_ptr, line_ptr, D, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """x . c of a row and a block, the sum over d in order."""
    total = tl.zeros([BLOCK], ACC)
    for d in range(0, range_end(D // 8 * 8), 8):
        # eight loads on their way at a time
        for i in tl.static_range(8):
            total += tl.load(x_ptr + d + i).to(ACC) * tl.load(line_ptr + (d + i) * BLOCK).to(ACC)
    for d in range(range_end(D // 8 * 8), range_end(D)):
        total += tl.load(x_ptr + d).to(ACC) * tl.load(line_ptr + d * BLOCK).to(ACC)
    return total


@triton.jit
def _scan(
    x_ptr, lines_ptr, term_ptr, maxima_ptr, threshold, codes, blocks, D,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Scores a row's candidate blocks in ACC. Returns each lane's best score, its code and its second best score, the
    number of blocks, and whether the score of a code that can be chosen is beyond float32."""
    lane = tl.arange(0, BLOCK)
    number = tl.arange(0, BLOCKS)
    best = tl.full([BLOCK], float("-inf"), ACC)
    second = best
    index = tl.zeros([BLOCK], tl.int32)
    beyond = index
    taken = tl.full([], 0, tl.int32)
    for start in range(0, range_end(blocks), BLOCKS):
        candidate = start + number < blocks
        if maxima_ptr is not None:
            maximum = tl.load(maxima_ptr + start + number, mask=candidate, other=float("-inf"))  # [BLOCKS]
            candidate &= maximum >= threshold
        left = tl.where(candidate, start + number, blocks)
        block = tl.min(left, 0)
        while block < blocks:
            # [BLOCK]
            score = _products(x_ptr, lines_ptr + block.to(tl.int64) * (BLOCK * D) + lane, D, BLOCK, ACC)
            code = block * BLOCK + lane
            inside = code < codes
            scale = tl.load(term_ptr + 2 * code, mask=inside, other=0.0)
            offset = tl.load(term_ptr + 2 * code + 1, mask=inside, other=0.0)
            score = score * scale.to(ACC) - offset.to(ACC)
            # else products below float32's range would matter, or scales of which float32 holds few digits
            beyond |= (inside & ((scale > 1e10) | (scale < 1e-37))).to(tl.int32)
            inside &= scale == scale
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
    x_ptr, lines_ptr, term_ptr, maxima_ptr, slack_ptr, fp32_margin_ptr, index_ptr, score_ptr,
    rescored_ptr, begin, rows, padded, kept, all_rows, codes, blocks, D, head_stride, stride,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A row's nearest code by the definition, among the blocks whose maximum is within the slack, or all blocks where
    there are no maxima. Float32 decides where the best score leads all others by more than twice its error."""
    head = tl.program_id(0) // rows
    row = tl.program_id(0) % rows
    x_ptr += head.to(tl.int64) * head_stride + (begin + row).to(tl.int64) * stride
    lines_ptr += head.to(tl.int64) * blocks * BLOCK * D
    term_ptr += head.to(tl.int64) * codes * 2
    undecided = tl.full([], 1, tl.int1)
    threshold = tl.full([], float("-inf"), tl.float32)
    scratch = head * padded + row
    if maxima_ptr is not None:
        slack = tl.load(slack_ptr + scratch)
        undecided = slack == slack
        number = tl.arange(0, BLOCKS)
        maxima_ptr += scratch.to(tl.int64) * kept
        largest = tl.full([BLOCKS], float("-inf"), tl.float32)
        for start in range(0, range_end(blocks), BLOCKS):
            maximum = tl.load(maxima_ptr + start + number, mask=start + number < blocks, other=float("-inf"))
            largest = tl.maximum(largest, maximum)
        threshold = tl.max(largest, 0) - slack

    winner = tl.full([], 0, tl.int32)
    top = tl.full([], float("nan"), tl.float64)
    taken = winner
    if fp32_margin_ptr is not None:  # noqa: SIM102
        if undecided:
            best, index, second, taken, beyond = _scan(
                x_ptr, lines_ptr, term_ptr, maxima_ptr, threshold, codes, blocks, D, BLOCK, BLOCKS, tl.float32
            )
            first = tl.max(best, 0)
            enough = first - tl.load(fp32_margin_ptr + scratch)
            close = tl.sum((best >= enough).to(tl.int32) + (second >= enough).to(tl.int32), 0)
            undecided = (close != 1) | (beyond != 0) | (first == float("-inf"))
            winner = tl.min(tl.where(best == first, index, codes), 0)
    if undecided:
        wide_best, wide_index, _, taken, _ = _scan(
            x_ptr, lines_ptr, term_ptr, maxima_ptr, threshold, codes, blocks, D, BLOCK, BLOCKS, tl.float64
        )
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


def _lines(codebook: Tensor, block: int) -> Tensor:
    """Blocks of codes as [D, block], so that neighbours in memory are codes."""
    heads, codes, columns = codebook.shape
    blocks = triton.cdiv(codes, block)
    padded = torch.nn.functional.pad(codebook, (0, 0, 0, blocks * block - codes))
    return padded.reshape(heads, blocks, block, columns).transpose(2, 3).contiguous()


def nearest_code(
    x: Tensor, codebook: Tensor, metric: str, precision: str, with_score: bool
) -> tuple[Tensor, Tensor, Tensor]:
    heads, rows, columns = x.shape
    codes = codebook.shape[1]
    plan = plan_of(columns, gpu_of(x.device))
    index, score, rescored = new_nearest(x, with_score)
    rescored.zero_()
    if index.numel() == 0:
        return index, score, rescored
    x, codebook = (t if t.stride(2) == 1 else t.contiguous() for t in (x, codebook))

    terms = code_terms(codebook, METRICS[metric])
    lines = _lines(codebook, plan.block)
    blocks = lines.shape[1]
    rescored[2] = heads * rows * blocks

    def decide(maxima: Tensor | None, packed: PackedRows | None, begin: int, count: int) -> None:
        launch(
            _decide_kernel, heads * count, x, lines, terms, maxima, packed and packed.slack,
            None if with_score else packed and packed.fp32_margin, index, score if with_score else None, rescored,
            begin, count, *((0, 0) if maxima is None else maxima.shape[1:]), rows, codes, blocks, columns,
            x.stride(0), x.stride(1), BLOCK=plan.block, BLOCKS=min(512, triton.next_power_of_2(blocks)), num_warps=1,
        )  # fmt: skip

    if blocks == 1 or x.dtype == torch.float64:
        decide(None, None, 0, rows)
        return index, score, rescored

    rescored[1] = heads * rows
    packed_codes = pack_codes(codebook, terms, METRICS[metric], plan)
    _, padded_codes, width = packed_codes.half.shape
    code_tiles = padded_codes // TILE_CODES
    kept = padded_codes // plan.block
    chunk = max(1, min(_SCRATCH // (heads * kept * 4), rows) // _TILE_ROWS) * _TILE_ROWS
    row_tiles = triton.cdiv(min(chunk, rows), _TILE_ROWS)
    padded = row_tiles * _TILE_ROWS
    packed_rows = new_packed_rows(packed_codes, padded)
    maxima = packed_codes.bias.new_empty((heads, padded, kept))
    splits = min(code_tiles, triton.cdiv(_PROGRAMS, heads * row_tiles))
    tiles_each = triton.cdiv(code_tiles, splits)
    splits = triton.cdiv(code_tiles, tiles_each)
    parts, run, lanes, pair = plan.groups
    for begin in range(0, rows, padded):
        count = min(padded, rows - begin)
        pack_rows(x, packed_codes, packed_rows, begin, count, certified=precision != "bf16")
        launch(
            _block_maxima_kernel, heads * row_tiles * splits, packed_rows.half, packed_codes.half, packed_codes.bias,
            packed_rows.factor, maxima, row_tiles, code_tiles, splits, tiles_each, width,
            CODES=plan.block, ROWS=_TILE_ROWS, BLOCK_K=TILE_CODES, DEPTH=plan.depth, WHOLE=plan.pieces == 1,
            PARTS=parts, RUN=run, LANES=lanes, PAIR=pair, STAGES=plan.stages, num_warps=plan.warps,
        )  # fmt: skip
        decide(maxima, packed_rows, begin, count)
    return index, score, rescored
