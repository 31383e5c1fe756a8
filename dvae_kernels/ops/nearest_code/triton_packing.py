"""How nearest_code's first pass holds rows and codes: centred, scaled by powers of two, rounded to float16.

The bound. Let x', c' be centred and scaled, xh, ch their float16 values (never subnormal: those are zeros), h the bias,
|c'|^2/2 for a distance and else 0, f the power of two that gives h a row's scale; max over the codes. Each maximum is
within B of the definition's score, where

    B = |x' - xh| max|ch| + |x'| max|c' - ch|       rounding to float16
      + 2^-23 |x'| max|ch|                          rounding x - m to float32; c - m is taken in float64
      + 2^-22 (D + 10) |xh| max|ch|                 accumulation, 16 terms at a time, cut off at 2^-23 of the largest
      + 2^-21 f max h                               h rounded, and added; best - 2B itself
      + 2^-52 (D + 4) (|x| max|c| + f max|c|^2)     the definition's own rounding, not centred; |c|^2 for a distance

so that a block whose maximum is below best - 2B cannot hold the winner, nor a code that ties with it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._triton.interpreter import INTERPRETED
from dvae_kernels._triton.rows import launch
from dvae_kernels.ops.nearest_code.formulas import Metric

TILE_CODES = 128  # of a matrix product
_TERM_ROWS = 32  # codes of a program that sums their squares


class Plan(NamedTuple):
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
        return TILE_CODES // (run * lanes * pair), run, lanes, pair


class Gpu(NamedTuple):
    shared: int = 232448  # bytes that a program can have
    arch: int = 90


def plan_of(columns: int, gpu: Gpu) -> Plan:
    """Blocks: a maximum is written and read, and the codes of a block are read for every row: about sqrt(2K / D)."""
    block = 64 if columns <= 16 else 32 if columns <= 64 else 16
    depth = triton.next_power_of_2(max(columns, 16))
    # Blackwell's threads get whole rows of a product, and every |c|^2/2 beside them
    warps = 8 if gpu.arch // 10 == 10 else 4
    if depth <= 64:
        return Plan(block, depth, 1, warps, 3)
    # rows are kept while two tiles of codes come in
    if depth <= 256 and 3 * TILE_CODES * depth * 2 + 4096 <= gpu.shared:
        return Plan(block, depth, 1, 8 if depth == 256 else warps, 2)
    return Plan(block, 64, triton.cdiv(columns, 64), 4 if gpu.arch // 10 == 9 else 8, 3)


@lru_cache
def gpu_of(device: torch.device) -> Gpu:
    """What kernels on `device` can have; an H100 for a device that is no GPU."""
    if device.type != "cuda":
        return Gpu()
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(properties["max_shared_mem"], 10 * major + minor)


@triton.jit
def range_end(n):
    """The end of a range; the interpreter needs a Python number."""
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
    """Float32 rounded to float16; zero where the float16 is subnormal."""
    return tl.where(tl.abs(x) >= 0.00006103515625, x, 0.0).to(tl.float16)


@triton.jit
def _wide(x):
    """x of any float dtype, in float64."""
    return x if x.dtype == tl.float64 else x.to(tl.float32).to(tl.float64)


@triton.jit
def _code_terms_kernel(
    code_ptr, term_ptr, codes, D, head_stride, stride,
    NORMALISED: tl.constexpr, DISTANCE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The terms of every code, with a NaN scale where its square is not finite; the sum over d is in order."""
    head = tl.program_id(0) // tl.cdiv(codes, ROWS)
    code = tl.program_id(0) % tl.cdiv(codes, ROWS) * ROWS + tl.arange(0, ROWS)
    ptr = code_ptr + head.to(tl.int64) * head_stride + code.to(tl.int64) * stride
    square = tl.zeros([ROWS], tl.float64)
    for d in range(0, range_end(D), 4):
        for i in tl.static_range(4):
            c = _wide(tl.load(ptr + d + i, mask=(code < codes) & (d + i < D), other=0.0))  # [ROWS]
            square += c * c
    out = head.to(tl.int64) * codes + code
    scale = tl.full([ROWS], 1.0, tl.float64)
    if NORMALISED:
        scale = tl.where(square == 0, 0.0, 1.0 / tl.sqrt(tl.where(square == 0, 1.0, square)))
    tl.store(term_ptr + 2 * out, tl.where(square < float("inf"), scale, float("nan")), mask=code < codes)
    tl.store(term_ptr + 2 * out + 1, square * (0.5 if DISTANCE else 0.0), mask=code < codes)


@triton.jit
def _load_centred(code_ptr, term_ptr, centre_ptr, head, code, col, codes, D, head_stride, stride):
    """(codes [ROWS, BLOCK_D] in float64, times their scale; the same less the centre)."""
    inside = (code < codes)[:, None] & (col < D)[None, :]
    offset = head.to(tl.int64) * head_stride + code.to(tl.int64)[:, None] * stride + col[None, :]
    c = _wide(tl.load(code_ptr + offset, mask=inside, other=0.0))  # [ROWS, BLOCK_D]
    c *= tl.load(term_ptr + 2 * (head.to(tl.int64) * codes + code), mask=code < codes, other=0.0)[:, None]
    centre = tl.load(centre_ptr + head * D + col, mask=col < D, other=0.0).to(tl.float64)
    return c, tl.where(inside, c - centre[None, :], 0.0)


@triton.jit
def _amax_kernel(
    code_ptr, term_ptr, centre_ptr, amax_ptr, codes, D, head_stride, stride,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The largest absolute value in every centred code; 0 for a code that is not finite."""
    head = tl.program_id(0) // tl.cdiv(codes, ROWS)
    code = tl.program_id(0) % tl.cdiv(codes, ROWS) * ROWS + tl.arange(0, ROWS)
    amax = tl.zeros([ROWS], tl.float32)
    finite = code < codes
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)
        _, c = _load_centred(code_ptr, term_ptr, centre_ptr, head, code, col, codes, D, head_stride, stride)
        finite &= tl.min((tl.abs(c) < float("inf")).to(tl.int32), 1) == 1
        amax = tl.maximum(amax, tl.max(tl.abs(c).to(tl.float32), 1))
    out = amax_ptr + head.to(tl.int64) * codes + code
    tl.store(out, tl.where(finite, amax, 0.0), mask=code < codes)


@triton.jit
def _pack_codes_kernel(
    code_ptr, term_ptr, centre_ptr, amax_ptr, half_ptr, bias_ptr, bounds_ptr, codes, padded, D,
    head_stride, stride, DISTANCE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, RUN: tl.constexpr,
    LANES: tl.constexpr, PAIR: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """One block of codes: float16 in the order of Plan.groups, its bias h (inf where the code is not finite), and
    |ch|, |c' - ch|, h, |c|, whose maxima bound a row's error."""
    blocks = padded // BLOCK
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    code = block * BLOCK + tl.arange(0, BLOCK)
    scale = _power64(_shift(tl.load(amax_ptr + head)))
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
        length, c = _load_centred(code_ptr, term_ptr, centre_ptr, head, code, col, codes, D, head_stride, stride)
        c *= scale
        length *= scale
        half = _half(tl.where(tl.abs(c) < 65504, c, 0.0).to(tl.float32))  # [BLOCK, BLOCK_D]
        tl.store(half_ptr + place[:, None] * (TILES * BLOCK_D) + col[None, :], half)
        wide = half.to(tl.float32).to(tl.float64)
        half_square += tl.sum(c * c, 1) * 0.5
        error += tl.sum((c - wide) * (c - wide), 1)
        rounded += tl.sum(wide * wide, 1)
        plain += tl.sum(length * length, 1)
    chosen = (code < codes) & (half_square < float("inf"))
    bias = half_square if DISTANCE else 0.0
    tl.store(bias_ptr + place, tl.where(chosen, bias, float("inf")).to(tl.float32))
    bounds = bounds_ptr + first * 4 + code
    tl.store(bounds, tl.where(chosen, tl.sqrt(rounded), 0.0).to(tl.float32))
    tl.store(bounds + padded, tl.where(chosen, tl.sqrt(error), 0.0).to(tl.float32))
    tl.store(bounds + 2 * padded, tl.where(chosen, bias, 0.0).to(tl.float32))
    tl.store(bounds + 3 * padded, tl.where(chosen, tl.sqrt(plain), 0.0).to(tl.float32))


@triton.jit
def _half_rows_kernel(
    x_ptr, centre_ptr, amax_ptr, bounds_ptr, half_ptr, factor_ptr, slack_ptr, fp32_margin_ptr, begin, rows, padded, D,
    head_stride, stride, accumulation, definition, fp32_rounding,
    CERTIFIED: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Rows begin to begin + rows of x, centred where there is a centre, scaled and rounded; f; the slack 2B, inf where
    it has no bound and NaN for a row that is not finite; and twice the error of float32 scores."""
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
    code_exponent = _shift(tl.load(amax_ptr + head))
    if centre_ptr is not None:
        # clamping a row far smaller than the codes loses less than the rounding of |c'|^2/2
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
        half = _half(x)  # [ROWS, BLOCK_D]
        difference = x - half.to(tl.float32)
        square += tl.sum(x * x, 1)
        error += tl.sum(difference * difference, 1)
        plain += tl.sum(length * length, 1)
        tl.store(half_ptr + out[:, None] * (TILES * BLOCK_D) + col[None, :], half, mask=(row < rows)[:, None])
    tl.store(factor_ptr + out, factor, mask=row < rows)
    slack = tl.zeros([ROWS], tl.float32)
    if CERTIFIED:
        code = tl.load(bounds_ptr + head * 4)
        code_plain = tl.load(bounds_ptr + head * 4 + 3)
        norm = tl.sqrt(square)
        loss = tl.sqrt(error) + norm * 1.1920929e-07
        slack = loss * code + norm * tl.load(bounds_ptr + head * 4 + 1)
        slack += (norm + loss) * code * accumulation
        slack += factor * tl.load(bounds_ptr + head * 4 + 2) * 4.7683716e-07
        own = tl.sqrt(plain) * code_plain
        if centre_ptr is not None:
            own += factor * code_plain * code_plain
        slack += own * definition
        slack *= 2.02  # 2 B, and the rounding of these sums themselves
    slack = tl.where(known & (slack < float("inf")), slack, float("inf"))
    tl.store(slack_ptr + out, tl.where(finite, slack, float("nan")), mask=row < rows)
    # twice the float32 summation error of a score, for the unscaled inputs
    code_half = code_exponent >> 1
    norm = tl.sqrt(plain) * _power(-(exponent >> 1)) * _power((exponent >> 1) - exponent)
    code_norm = tl.load(bounds_ptr + head * 4 + 3) * _power(-code_half) * _power(code_half - code_exponent)
    own = norm * code_norm + (code_norm * code_norm if centre_ptr is not None else 0.0)
    tl.store(fp32_margin_ptr + out, own * fp32_rounding + 1e-24, mask=row < rows)


def code_terms(codebook: Tensor, metric: Metric) -> Tensor:
    """(scale, offset) of every code, float64 [heads, codes, 2]."""
    heads, codes, columns = codebook.shape
    terms = codebook.new_empty((heads, codes, 2), dtype=torch.float64)
    launch(
        _code_terms_kernel, heads * triton.cdiv(codes, _TERM_ROWS), codebook, terms, codes, columns,
        codebook.stride(0), codebook.stride(1), NORMALISED=metric.normalised, DISTANCE=metric.distance,
        ROWS=_TERM_ROWS, num_warps=1,
    )  # fmt: skip
    return terms


class PackedCodes(NamedTuple):
    """A codebook prepared for pass 1; [heads, ...]."""

    half: Tensor  # float16 [padded codes, padded D]
    bias: Tensor  # float32 [padded codes]
    row_centre: Tensor | None  # float32 [D], taken off x; none unless the metric is a distance
    amax: Tensor  # float32 []: the largest element of a centred code
    bounds: Tensor  # float32 [4]


def pack_codes(codebook: Tensor, terms: Tensor, metric: Metric, plan: Plan) -> PackedCodes:
    heads, codes, columns = codebook.shape
    padded, width = triton.cdiv(codes, TILE_CODES) * TILE_CODES, plan.depth * plan.pieces
    if metric.normalised:
        mean = (terms[..., 0].float()[:, None] @ codebook.float())[:, 0] / codes
    else:
        mean = codebook.mean(1, dtype=torch.float64)
    centre = mean.float().nan_to_num(0.0, 0.0, 0.0)
    amax = centre.new_empty((heads, codes))
    block_d = min(plan.depth, 64)
    tile = {"BLOCK_D": block_d, "TILES": width // block_d, "num_warps": 4}
    each = 1024 // block_d
    launch(
        _amax_kernel, heads * triton.cdiv(codes, each), codebook, terms, centre, amax, codes, columns,
        codebook.stride(0), codebook.stride(1), ROWS=each, **tile,
    )  # fmt: skip
    amax = amax.amax(1)
    half = codebook.new_empty((heads, padded, width), dtype=torch.float16)
    bias = centre.new_empty((heads, padded))
    bounds = centre.new_empty((heads, 4, padded))
    _, run, lanes, pair = plan.groups
    launch(
        _pack_codes_kernel, heads * padded // plan.block, codebook, terms, centre, amax, half, bias, bounds, codes,
        padded, columns, codebook.stride(0), codebook.stride(1),
        DISTANCE=metric.distance, BLOCK=plan.block, TILE=TILE_CODES, RUN=run, LANES=lanes, PAIR=pair, **tile,
    )  # fmt: skip
    return PackedCodes(half, bias, centre if metric.distance else None, amax, bounds.amax(2))


class PackedRows(NamedTuple):
    """Some rows of x prepared for pass 1; [heads, padded rows, ...]."""

    half: Tensor  # float16 [padded D]
    factor: Tensor  # float32: f
    slack: Tensor  # float32: 2B, inf without a bound, NaN for a row that is not finite
    fp32_margin: Tensor  # float32: twice the error of float32 scores


def new_packed_rows(codes: PackedCodes, padded: int) -> PackedRows:
    heads, _, width = codes.half.shape
    half = codes.half.new_empty((heads, padded, width))
    return PackedRows(half, *codes.bias.new_empty((3, heads, padded)).unbind())


def pack_rows(x: Tensor, codes: PackedCodes, packed: PackedRows, begin: int, count: int, certified: bool) -> None:
    """Rows [begin, begin + count) of x; without a certificate, the slack is 0."""
    heads, padded, width = packed.half.shape
    columns = x.shape[2]
    block_d = min(width & -width, 256)
    each = 2048 // block_d
    launch(
        _half_rows_kernel, heads * triton.cdiv(count, each), x, codes.row_centre, codes.amax, codes.bounds, *packed,
        begin, count, padded, columns, x.stride(0), x.stride(1),
        2.0**-22 * (columns + 10), 2.0**-52 * (columns + 4), 1.02 * 2.0**-23 * (columns + 8),
        CERTIFIED=certified, ROWS=each, BLOCK_D=block_d, TILES=width // block_d, num_warps=4,
    )  # fmt: skip
