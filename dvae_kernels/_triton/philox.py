"""The noise stream of `dvae_kernels._rng` inside Triton kernels.

A Philox call makes four words, for four consecutive columns of a row, so tiles are drawn in groups of four columns.
"""

import triton
import triton.language as tl

from dvae_kernels._triton.numerics import horner, log2
from dvae_kernels._triton.tiles import join4


@triton.jit
def philox(seed, c0, c1, c2, c3):
    """Philox4x32-10 of uint32 counter words: four uint32 words.

    As tl.philox, but each product is taken once, in 64 bits: one IMAD.WIDE in place of an IMAD.HI and an IMAD.
    """
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def row_bits(key_ptr, row, start, draw, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """The stream's uint32 words [ROWS, BLOCK_K] of the columns from `start` (a multiple of 4).

    row: uint32 [ROWS, 1], row_offset included. key_ptr: int64[2].
    """
    seed = tl.load(key_ptr)
    offset = tl.load(key_ptr + 1).to(tl.uint32)
    # every counter word must be uint32: 64-bit words would make tl.philox another generator
    group = (start // 4 + tl.arange(0, BLOCK_K // 4)).to(tl.uint32)[None, :]
    zero = tl.zeros([ROWS, BLOCK_K // 4], tl.uint32)
    a, b, c, d = philox(seed, group + zero, row + zero, offset + zero, tl.full(zero.shape, draw, tl.uint32))
    return join4(a, b, c, d, ROWS, BLOCK_K)


@triton.jit
def row_word(key_ptr, row, column, draw, ROWS: tl.constexpr):
    """The word of one column of each row, [ROWS, 1] as `row` and `column` (int32)."""
    zero = tl.zeros([ROWS, 1], tl.uint32)
    group = (column // 4).to(tl.uint32)
    offset = tl.load(key_ptr + 1).to(tl.uint32)
    a, b, c, d = philox(tl.load(key_ptr), group, row + zero, offset + zero, tl.full([ROWS, 1], draw, tl.uint32))
    lane = column % 4
    return tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))


@triton.jit
def bits_to_uniform(bits, dtype: tl.constexpr):
    """(v, 1 - v), v = (bits + 1/2) / 2^32, both accurate, in `dtype` (float32 or float64)."""
    if dtype == tl.float64:
        v = (bits.to(tl.float64) + 0.5) * 2.3283064365386963e-10
        return v, 1.0 - v
    else:
        v = bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
        return v, (bits ^ 0xFFFFFFFF).to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def bits_to_exponential(bits, dtype: tl.constexpr):
    """Standard exponential noise E = -log(1 - v), v = (bits + 1/2) / 2^32, in `dtype` (float32 or float64)."""
    if dtype == tl.float64:
        # log1p(x) = log(u) * x / (u - 1) for u = 1 + x rounded, exact to the last bits (Kahan)
        v = (bits.to(tl.float64) + 0.5) * 2.3283064365386963e-10
        u = 1.0 - v
        return tl.log(u) * v / (u - 1.0)
    else:
        # one conversion serves both ends: v itself below 1/4, else 1 - v, formed from the complemented integer
        low = bits < 0x40000000
        x = tl.where(low, bits, bits ^ 0xFFFFFFFF).to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
        # minimax polynomial of -log(1 - x) / x on [0, 1/4], relative error 2^-28 before rounding
        series = horner(x, (0.333775282, 0.0896207020, 0.214224264, 0.248693839, 0.333389550, 0.499999106, 1.0))
        return tl.where(low, series * x, log2(x) * -0.6931471805599453)


@triton.jit
def bits_to_gumbel(bits, dtype: tl.constexpr):
    """Standard Gumbel noise G = -log E, always finite, in `dtype`."""
    e = bits_to_exponential(bits, dtype)
    if dtype == tl.float64:
        return -tl.log(e)
    else:
        return log2(e) * -0.6931471805599453


@triton.jit
def bits_to_logistic(bits, dtype: tl.constexpr):
    """Standard logistic noise L = logit(v), always finite, in `dtype`."""
    if dtype == tl.float64:
        return bits_to_exponential(bits, dtype) - bits_to_exponential(bits ^ 0xFFFFFFFF, dtype)
    else:
        v, w = bits_to_uniform(bits, dtype)
        return (log2(v) - log2(w)) * 0.6931471805599453
