"""Elementary functions of [0, 1] for kernels. Float32: few instructions, an error of 2 to 3 ulp; float64: accurate.

A number and its distance from 1 come as two arguments, each accurate where it is small.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from dvae_kernels._triton.interpreter import INTERPRETED

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def at_least(x, bound):
    """max(x, bound), NaN where x is. Triton takes a Python number as float32."""
    return tl.maximum(x, bound, tl.PropagateNan.ALL)


@triton.jit
def at_most(x, bound):
    """min(x, bound), NaN where x is. Triton takes a Python number as float32."""
    return tl.minimum(x, bound, tl.PropagateNan.ALL)


@triton.jit
def at_least_tiny(x):
    """max(x, the least normal number), NaN where x is."""
    return at_least(x, 1.1754943508222875e-38 if x.dtype == tl.float32 else 2.2250738585072014e-308)


@triton.jit
def inside_unit(x):
    """x, or its nearest from the least normal number to the largest below 1; NaN where x is."""
    top = tl.full([], 0.9999999403953552 if x.dtype == tl.float32 else 0.9999999999999999, x.dtype)
    return at_most(at_least_tiny(x), top)


@triton.jit
def horner(x, coefficients):
    """The polynomial with these coefficients, two or more, that of the highest power first."""
    series = x * coefficients[0] + coefficients[1]
    for i in tl.static_range(2, len(coefficients)):
        series = series * x + coefficients[i]
    return series


@triton.jit
def reciprocal(x):
    """1 / x. In float32 one instruction, to 1 ulp where neither x nor 1 / x is subnormal."""
    if x.dtype == tl.float32 and not INTERPRETED:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        return 1.0 / x


@triton.jit
def exp(x):
    """e^x; in float32 for |x| < 87.34, to 1 ulp, where the instruction has 2: thresholds multiply it."""
    if x.dtype == tl.float32:
        shifted = x * 1.4426950408889634 + 12582912.0  # the nearest integer in its lowest bits
        n = shifted - 12582912.0
        r = n * -1.42860677e-06 + (n * -0.693145751953125 + x)
        # minimax polynomial of (e^r - 1 - r) / r^2
        series = horner(r, (0.00138146, 0.008368717, 0.04166839, 0.16666521, 0.49999994, 1.0, 1.0))
        power = (shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000
        return series * power.to(tl.float32, bitcast=True)
    else:
        return tl.exp(x)


@triton.jit
def log2(x):
    """Base-2 logarithm. In float32 one instruction (error 2^-22), where tl.log2 takes some fifteen."""
    if x.dtype == tl.float32 and not INTERPRETED:
        return libdevice.fast_log2f(x)
    else:
        return tl.log2(x)


@triton.jit
def log(x):
    """Natural logarithm of positive normal x: in float32 to 2e-7 of itself or absolutely, whichever is more."""
    return log2(x) * LN2


@triton.jit
def log_1m(x):
    """log(1 - x) for x in [0, 1/2]."""
    if x.dtype == tl.float32:
        # minimax polynomial, relative error 2^-25 before rounding
        series = horner(
            x, (1.4145494, -1.6395931, 1.2087169, -0.18095352, 0.26369122, 0.24368258, 0.3336321, 0.49999523)
        )
        return -x - (x * x) * series
    else:
        # log(1 - x) = log(y) x / (1 - y) for y = 1 - x rounded, exact to the last bits (Kahan)
        y = 1.0 - x
        rounded = tl.where(y == 1, 1.0, 1.0 - y)
        return tl.where(y == 1, -x, tl.log(y) * (x / rounded))


@triton.jit
def log1p(x):
    """log(1 + x) for x in [0, 1]."""
    if x.dtype == tl.float32:
        # minimax polynomial, relative error 2^-27 before rounding
        series = horner(x, (-0.0033184718, 0.02020458, -0.05766443, 0.10680554, -0.15355395, 0.196954, -0.24958587,
                            0.33330512, -0.4999993))  # fmt: skip
        return x + (x * x) * series
    else:
        y = 1.0 + x
        rounded = tl.where(y == 1, 1.0, y - 1.0)
        return tl.where(y == 1, x, tl.log(y) * (x / rounded))


@triton.jit
def log_share(s, rest):
    """log(s) of s = 1 - rest in [0, 1]; -inf for 0."""
    return tl.where(rest < 0.5, log_1m(rest), log(s))


@triton.jit
def exp2_share(y):
    """2^y for y <= 0, which no rounding takes beyond 1."""
    return at_most(tl.exp2(y), 1.0)


@triton.jit
def one_minus_exp2(y, power):
    """1 - 2^y for y <= 0, given power = 2^y."""
    close = y > -1
    if y.dtype == tl.float32:
        # minimax polynomial of (1 - 2^-x) / x on [0, 1], relative error 2^-26.7 before rounding
        series = horner(y, (0.000114580565, 0.00129078, 0.009596276, 0.055498954, 0.24022606, 0.6931472))
        return tl.where(close, series * -y, 1.0 - power)
    else:
        inside = tl.where(close & (power != 1), power, 0.5)
        result = (1.0 - inside) * (tl.where(close, y, -1.0) / tl.log2(inside))
        return tl.where(power == 1, y * -LN2, tl.where(close, result, 1.0 - power))
