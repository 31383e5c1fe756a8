"""Gathering, summing and counting codes in Triton.

Sums: the rows are sorted by code and cut into blocks of BLOCK_ROWS; a row of a tile walks over one block
and writes a sum at the end of every run of one code. See the README for the levels that join the blocks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._rows import with_unit_columns
from dvae_kernels._triton.rows import acc, column_tiles, launch
from dvae_kernels.ops.codebook.schemas import new_codes, new_statistics, new_sums

BLOCK_ROWS = 64  # sorted rows of a block, the same in every backend: it fixes the order of additions
_KEY_TILE = 1024
_WARPS = 2


@triton.jit
def _gather_codes_kernel(
    codebook_ptr, index_ptr, out_ptr, rows, K, D, stride,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [R, 1]
    mask = row < rows
    index = tl.load(index_ptr + row, mask=mask, other=-1)
    inside = (index >= 0) & (index < K)
    outside = tl.where(index == -1, 0.0, float("nan")).to(out_ptr.dtype.element_ty)
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        code = tl.load(codebook_ptr + index * stride + col, mask=inside & (col < D), other=0.0)  # [R, D]
        tl.store(out_ptr + row * D + col, tl.where(inside, code, outside), mask=mask & (col < D))


@triton.jit
def _code_keys_kernel(index_ptr, key_ptr, rows, K, BLOCK: tl.constexpr):
    """Indices as sort keys: K where a row takes no part, so that those come last."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(index_ptr + row, mask=row < rows, other=0)
    tl.store(key_ptr + row, tl.where((index >= 0) & (index < K), index, K).to(tl.int32), mask=row < rows)


@triton.jit
def _finite_code_keys_kernel(
    x_ptr, index_ptr, key_ptr, rows, K, D, stride,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The same, with K for rows of x that are not finite as well."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [R]
    index = tl.load(index_ptr + row, mask=row < rows, other=-1)
    inside = (index >= 0) & (index < K)
    doubt = tl.zeros([ROWS, BLOCK_D], tl.int1)
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        x = tl.load(x_ptr + row[:, None] * stride + col, mask=inside[:, None] & (col < D), other=0.0)  # [R, D]
        doubt |= x - x != 0
    finite = tl.max(doubt.to(tl.int32), 1) == 0
    tl.store(key_ptr + row, tl.where(inside & finite, index, K).to(tl.int32), mask=row < rows)


@triton.jit
def _load_row(x_ptr, order_ptr, code_ptr, position, rows, col, stride, K, D, ACC: tl.constexpr):
    """(code, values) of the sorted rows at `position`: code K and zeros where there is none."""
    code = tl.load(code_ptr + position, mask=position < rows, other=K)
    row = position if order_ptr is None else tl.load(order_ptr + position, mask=position < rows, other=0)
    return code, tl.load(x_ptr + row * stride + col, mask=(code < K) & (col < D), other=0.0).to(ACC)


@triton.jit
def _add_row(total, code, joins_previous, next_code, x, sums_ptr, partial_ptr, col, K, D):
    """Ends the run of `code` where another code follows, and adds x to the current run.

    joins_previous: whether the run began in the block before; then its sum here is a partial one.
    """
    ends = next_code != code
    target = tl.where(joins_previous, partial_ptr, sums_ptr + code.to(tl.int64) * D)
    tl.store(target + col, total, mask=ends & (code < K) & (col < D))
    return tl.where(ends, 0.0, total) + x, next_code, joins_previous & (next_code == code)


@triton.jit
def _code_sums_kernel(
    x_ptr, order_ptr, code_ptr, sums_ptr, partial_code_ptr, partial_ptr, rows, K, D, stride,
    ACC: tl.constexpr, LENGTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    start = pid % TILES * BLOCK_D
    col = start + tl.arange(0, BLOCK_D)[None, :]
    block = (pid // TILES).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = block * LENGTH
    end = tl.minimum(begin + LENGTH, rows)
    first = tl.load(code_ptr + begin, mask=begin < rows, other=K)
    last = tl.load(code_ptr + end - 1, mask=begin < rows, other=K)
    joins_previous = first == tl.load(code_ptr + begin - 1, mask=(begin > 0) & (begin < rows), other=-1)
    joins_next = last == tl.load(code_ptr + end, mask=end < rows, other=-1)
    tl.store(partial_code_ptr + 2 * block, tl.where(joins_previous, first, K), mask=(begin < rows) & (start == 0))
    tl.store(partial_code_ptr + 2 * block + 1, tl.where(joins_next, last, K), mask=(begin < rows) & (start == 0))

    front_ptr = partial_ptr + 2 * block * D
    code = first
    total = tl.zeros([ROWS, BLOCK_D], ACC)
    i = 0
    while i < tl.minimum(rows, LENGTH):  # four rows on their way at a time; the last level has few
        at = begin + i
        code0, x0 = _load_row(x_ptr, order_ptr, code_ptr, at, end, col, stride, K, D, ACC)
        code1, x1 = _load_row(x_ptr, order_ptr, code_ptr, at + 1, end, col, stride, K, D, ACC)
        code2, x2 = _load_row(x_ptr, order_ptr, code_ptr, at + 2, end, col, stride, K, D, ACC)
        code3, x3 = _load_row(x_ptr, order_ptr, code_ptr, at + 3, end, col, stride, K, D, ACC)
        total, code, joins_previous = _add_row(total, code, joins_previous, code0, x0, sums_ptr, front_ptr, col, K, D)
        total, code, joins_previous = _add_row(total, code, joins_previous, code1, x1, sums_ptr, front_ptr, col, K, D)
        total, code, joins_previous = _add_row(total, code, joins_previous, code2, x2, sums_ptr, front_ptr, col, K, D)
        total, code, joins_previous = _add_row(total, code, joins_previous, code3, x3, sums_ptr, front_ptr, col, K, D)
        i += 4
    target = tl.where(joins_previous, front_ptr, tl.where(joins_next, front_ptr + D, sums_ptr + code.to(tl.int64) * D))
    tl.store(target + col, total, mask=(code < K) & (col < D))
    # one run through the whole block: its sum stands in front, nothing is left for the back
    nothing = joins_previous & joins_next & (code < K) & (col < D)
    tl.store(front_ptr + D + col, tl.zeros([ROWS, BLOCK_D], ACC), mask=nothing)


def gather_codes(codebook: Tensor, indices: Tensor) -> Tensor:
    k, columns = codebook.shape
    out = new_codes(codebook, indices)
    if out.numel() == 0:
        return out
    codebook = with_unit_columns(codebook)
    tile = column_tiles(columns, codebook.itemsize, _WARPS, 4)
    launch(
        _gather_codes_kernel, triton.cdiv(indices.numel(), tile["ROWS"]), codebook, indices.contiguous(), out,
        indices.numel(), k, columns, codebook.stride(0), **tile,
    )  # fmt: skip
    return out


def code_sums(x: Tensor, indices: Tensor, num_codes: int) -> Tensor:
    rows = x.shape[0]
    sums = new_sums(x, num_codes).zero_()
    if x.numel() == 0 or num_codes == 0:
        return sums
    keys = x.new_empty((rows,), dtype=torch.int32)
    programs = triton.cdiv(rows, _KEY_TILE)
    launch(_code_keys_kernel, programs, indices.contiguous(), keys, rows, num_codes, BLOCK=_KEY_TILE, num_warps=4)
    codes, order = keys.sort(stable=True)
    _add_rows(with_unit_columns(x), codes, order, sums)
    return sums


def code_statistics(x: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    counts, sums = new_statistics(x, num_codes)
    sums.zero_()
    if rows == 0 or num_codes == 0:
        return counts.zero_(), sums
    x = with_unit_columns(x)
    keys = x.new_empty((rows,), dtype=torch.int32)
    tile = column_tiles(max(columns, 1), x.itemsize, _WARPS, 4)
    launch(
        _finite_code_keys_kernel, triton.cdiv(rows, tile["ROWS"]), x, indices.contiguous(), keys, rows, num_codes,
        columns, x.stride(0), **tile,
    )  # fmt: skip
    codes, order = keys.sort(stable=True)
    starts = torch.searchsorted(codes, torch.arange(num_codes + 1, dtype=torch.int32, device=x.device))
    if columns:
        _add_rows(x, codes, order, sums)
    return counts.copy_(starts.diff()), sums


def _add_rows(x: Tensor, codes: Tensor, order: Tensor, sums: Tensor) -> None:
    """Adds the rows of x to the sums of their codes. codes: ascending, K where a row takes no part; order: of the rows
    that have them."""
    num_codes, columns = sums.shape
    positions: Tensor | None = order  # partial rows are sorted already
    while True:
        rows, blocks = len(codes), triton.cdiv(len(codes), BLOCK_ROWS)
        partial_codes, partials = codes.new_empty((2 * blocks,)), sums.new_empty((2 * blocks, columns))
        tile = column_tiles(columns, x.itemsize, _WARPS)
        launch(
            _code_sums_kernel, triton.cdiv(blocks, tile["ROWS"]) * tile["TILES"], x, positions, codes, sums,
            partial_codes, partials, rows, num_codes, columns, x.stride(0), ACC=acc(sums.dtype), LENGTH=BLOCK_ROWS,
            **tile,
        )  # fmt: skip
        if blocks == 1:
            return
        x, codes, positions = partials, partial_codes, None
