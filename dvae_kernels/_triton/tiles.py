"""Tiles [ROWS, BLOCK_K] of tensors seen as [outer, K, inner]: which rows a program has, loads and stores."""

import triton
import triton.language as tl


@triton.jit
def join4(a, b, c, d, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """Columns 4g, 4g+1, 4g+2, 4g+3 from four [ROWS, BLOCK_K / 4] tiles: a [ROWS, BLOCK_K] tile."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [ROWS, BLOCK_K])


@triton.jit
def split4(x, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """The inverse of join4."""
    ac, bd = tl.split(tl.reshape(x, [ROWS, BLOCK_K // 4, 2, 2]))
    a, c = tl.split(ac)
    b, d = tl.split(bd)
    return a, b, c, d


@triton.jit
def row_tile(rows, inner, ROWS: tl.constexpr, INTERLEAVED: tl.constexpr, INT64: tl.constexpr, SPLITS: tl.constexpr = 1):
    """(row, outer index, inner index, mask) of the rows of this program, each [ROWS, 1] or a scalar.

    SPLITS neighbouring programs share their rows, each with a split of the columns.
    """
    pid = tl.program_id(0) // SPLITS
    lane = tl.arange(0, ROWS)[:, None]
    if INTERLEAVED:
        # rows of one outer index, so that the compiler sees that they are neighbours in memory
        blocks = tl.cdiv(inner, ROWS).to(tl.int32)
        outer_index = pid // blocks
        block = pid % blocks
        if INT64:  # after the division, which is a subroutine in 64 bits
            outer_index = outer_index.to(tl.int64)
            block = block.to(tl.int64)
        inner_index = block * ROWS + lane
        return outer_index * inner + inner_index, outer_index, inner_index, inner_index < inner
    else:
        if INT64:
            pid = pid.to(tl.int64)
        row = pid * ROWS + lane
        return row, row // inner, row % inner, row < rows


@triton.jit
def _load(row_ptr, col, stride_k, row_mask, K, fill, ACC: tl.constexpr, INT64: tl.constexpr):
    offset = col.to(tl.int64) * stride_k if INT64 else col * stride_k
    return tl.load(row_ptr + offset, mask=row_mask & (col < K), other=fill).to(ACC)


@triton.jit
def load_tile(row_ptr, start, stride_k, row_mask, K, fill, ACC: tl.constexpr, ROWS: tl.constexpr,
              BLOCK_K: tl.constexpr, INTERLEAVED: tl.constexpr, INT64: tl.constexpr):  # fmt: skip
    """Columns from `start`, upcast to ACC, `fill` outside. row_ptr: [ROWS, 1] pointers to column 0."""
    if INTERLEAVED:
        # four loads along the rows leave each thread with four consecutive columns, as the noise is drawn
        col = start + 4 * tl.arange(0, BLOCK_K // 4)[None, :]
        a = _load(row_ptr, col, stride_k, row_mask, K, fill, ACC, INT64)
        b = _load(row_ptr, col + 1, stride_k, row_mask, K, fill, ACC, INT64)
        c = _load(row_ptr, col + 2, stride_k, row_mask, K, fill, ACC, INT64)
        d = _load(row_ptr, col + 3, stride_k, row_mask, K, fill, ACC, INT64)
        return join4(a, b, c, d, ROWS, BLOCK_K)
    else:
        return _load(row_ptr, start + tl.arange(0, BLOCK_K)[None, :], stride_k, row_mask, K, fill, ACC, INT64)


@triton.jit
def _store(row_ptr, col, stride_k, value, row_mask, K, INT64: tl.constexpr):
    offset = col.to(tl.int64) * stride_k if INT64 else col * stride_k
    tl.store(row_ptr + offset, value, mask=row_mask & (col < K))


@triton.jit
def store_tile(row_ptr, start, stride_k, value, row_mask, K, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
               INTERLEAVED: tl.constexpr, INT64: tl.constexpr):  # fmt: skip
    """The inverse of load_tile; rounds to the dtype behind row_ptr."""
    if INTERLEAVED:
        col = start + 4 * tl.arange(0, BLOCK_K // 4)[None, :]
        a, b, c, d = split4(value, ROWS, BLOCK_K)
        _store(row_ptr, col, stride_k, a, row_mask, K, INT64)
        _store(row_ptr, col + 1, stride_k, b, row_mask, K, INT64)
        _store(row_ptr, col + 2, stride_k, c, row_mask, K, INT64)
        _store(row_ptr, col + 3, stride_k, d, row_mask, K, INT64)
    else:
        _store(row_ptr, start + tl.arange(0, BLOCK_K)[None, :], stride_k, value, row_mask, K, INT64)


@triton.jit
def store_partial(partials_ptr, i, value, row, rows, row_mask, SPLITS: tl.constexpr):
    """Put the [ROWS, 1] value of this program's split into partials[i], partials: [.., rows, SPLITS]."""
    tl.store(partials_ptr + (i * rows + row) * SPLITS + tl.program_id(0) % SPLITS, value, mask=row_mask)


@triton.jit
def load_partials(partials_ptr, i, fill, rows, SPLITS: tl.constexpr):
    """partials[i] of the one row of this program, padded with `fill` to a power of two.

    A vector reduces to a scalar, which has no layout to impose on the row's tiles.
    """
    split = tl.arange(0, triton.next_power_of_2(SPLITS))
    row = tl.program_id(0) // SPLITS
    return tl.load(partials_ptr + (i * rows + row) * SPLITS + split, mask=split < SPLITS, other=fill)
