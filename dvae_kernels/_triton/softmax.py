"""Exponentials and sums of softmax in kernels, and rows of nothing but -inf."""

import triton
import triton.language as tl


@triton.jit
def exp(x, scale, ACC: tl.constexpr):
    """exp(x * scale)."""
    if ACC == tl.float64:
        return tl.exp(x * scale)
    else:
        return tl.exp2(x * (scale * 1.4426950408889634))


@triton.jit
def inverse_or_zero(total):
    """1 / total, and 0 for a row of only -inf, whose total is 0."""
    return tl.where(total == 0, 0.0, 1.0 / total)


@triton.jit
def or_zero(top):
    """`top`, or 0 for a row of only -inf, where it would give inf - inf."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def running_max(top, x):
    """The largest value of each row so far, [ROWS, 1], with another tile [ROWS, BLOCK_K]."""
    return tl.maximum(top, tl.max(x, axis=1, keep_dims=True))


@triton.jit
def online_sum(top, total, x, scale, ACC: tl.constexpr):
    """The largest value of each row so far and the sum of exp((x - that) * scale), with another tile."""
    new_top = running_max(top, x)
    lag = top - or_zero(new_top)
    return new_top, total * exp(lag, scale, ACC) + row_sum(exp(x - or_zero(new_top), scale, ACC))


@triton.jit
def online_mean(total, mean, x, g, lag, scale, ACC: tl.constexpr):
    """The sums of exp(x * scale) and of g times it, with a tile whose maximum is ahead of the former one by -lag."""
    shrink, w = exp(lag, scale, ACC), exp(x, scale, ACC)
    return total * shrink + row_sum(w), mean * shrink + row_sum(w * g)


@triton.jit
def row_sum(x):
    """The sum of each row of a tile, [ROWS, 1]."""
    return tl.sum(x, axis=1, keep_dims=True)
