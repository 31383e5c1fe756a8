"""The smoothing kinds in Triton: what the kernels call, two functions a kind, listed in KINDS at the end of the file.

A transform gets a = e^-logit in [2^-126, 2^126], the noise e and e1 = 1 - e, both accurate, and beta > 0; it returns
zeta and its derivatives to the logit, to beta and to the noise. What a kernel does not use of them costs nothing.
A density gets zeta, the bit's p, q = 1 - p, log p and log q, and beta; it returns the log density of zeta and its
derivatives to zeta, to the logit and to beta. Beta is a number or one per element, in [2^-50, 2^50] or NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from dvae_kernels._triton.numerics import (
    LOG2E,
    at_least,
    at_least_tiny,
    at_most,
    exp,
    exp2_share,
    log,
    log1p,
    log_share,
    one_minus_exp2,
    reciprocal,
)

# Slopes that diverge are taken at no less than this distance from their singular place.
_CLAMP = tl.constexpr(2.0**-24)
# The logistic mixture, whose support is the whole line, moves noise to here from its ends.
_LEAST_NOISE = tl.constexpr(2.0**-64)


@triton.jit
def _decay(b):
    """(e^-b, 1 - e^-b)."""
    limit: tl.constexpr = 87.0 if b.dtype == tl.float32 else 745.0
    decay = tl.where(b > limit, 0.0, exp(-at_most(b, limit)))
    return decay, one_minus_exp2(b * -LOG2E, decay)


@triton.jit
def _finite(log_s):
    """log s, finite for s = 0: what multiplies it is 0 there."""
    return at_least(log_s, -800.0)


@triton.jit
def _clamped_log(log_s):
    """max(log s, log _CLAMP), whose value as a bare constant would be rounded to float32."""
    return at_least(log_s, tl.full([], -16.635532333438686, log_s.dtype))


@triton.jit
def _mean_exponential(x):
    """1 / x - 1 / (e^x - 1), the mean of an exponential of rate x on [0, 1], for small x (see _gentle)."""
    square = x * x
    series = 8.267195767195768e-07
    if x.dtype != tl.float32:
        series += square * -2.08767569878681e-08
    series = square * series - 3.306878306878307e-05
    series = series * square + 1.388888888888889e-03
    series = series * square - 8.333333333333333e-02
    return series * x + 0.5


@triton.jit
def _gentle(b):
    """Whether _mean_exponential is good to the last bits for x <= b; differences of exponentials lose 1 / b."""
    if b.dtype == tl.float32:
        return b < 1.0
    else:
        return b < 0.25


@triton.jit
def _beta_mean(b):
    """_mean_exponential for every b > 0."""
    decay, rest = _decay(b)
    return tl.where(_gentle(b), _mean_exponential(b), 1.0 / b - decay / rest)


@triton.jit
def _upper(a, e, e1):
    """(u, 1 - u) of the upper side: u = (e - q) / p, negative below the threshold."""
    return e - a * e1, at_most(e1 + a * e1, 1.0)


@triton.jit
def _spike(u, ubar, b, a, zeta, slope, moving, dbeta):
    """The transform that is 0 for u <= 0, from d zeta / du and from its product with 1 - u."""
    above = u > 0
    flat = ubar * (b * 0.0)  # NaN where an argument is
    return (
        tl.where(above, zeta, flat),
        tl.where(above, moving * (a * reciprocal(1.0 + a)), flat),
        tl.where(above, dbeta, flat),
        tl.where(above, slope * (1.0 + a), flat),
    )


@triton.jit
def spike_exponential(a, e, e1, b):
    u, ubar = _upper(a, e, e1)
    decay, rest = _decay(b)
    inverse_b = 1.0 / b
    d = at_least_tiny(u + ubar * decay)
    inverse = reciprocal(d)
    zeta = at_least(log_share(d, ubar * rest) * inverse_b + 1.0, 0.0)
    slope = rest * inverse_b * inverse
    return _spike(u, ubar, b, a, zeta, slope, slope * ubar, _exponential_dbeta(u, ubar, b, zeta, inverse))


@triton.jit
def _tilted_variance(u, ubar, b, node):
    """Of a bit whose odds are those of u times e^(node b), over u (1 - u)."""
    odds = exp(b * -node)
    inverse = reciprocal(u + ubar * odds)
    return odds * inverse * inverse


@triton.jit
def _exponential_dbeta(u, ubar, b, zeta, inverse):
    k = u * ubar
    if u.dtype == tl.float32:
        # in cumulants of a bit of mean u
        skew = 1.0 - 2.0 * u
        series = (k * 120.0 - 30.0) * k + 1.0
        series = series * (b * (1.0 / 144.0)) + skew * (1.0 - 12.0 * k) * (1.0 / 30.0)
        series = series * b + (1.0 - 6.0 * k) * 0.125
        series = series * b + skew * (1.0 / 3.0)
        small = series * b + 0.5
    else:
        # the integral of s times the variance at odds u e^(s b) / (1 - u) over [0, 1], by Gauss's rule
        low = at_most(b, 0.25)
        small = 0.015747914521692276 * _tilted_variance(u, ubar, low, 0.098535085798826426)
        small += 0.07390887007261667 * _tilted_variance(u, ubar, low, 0.30453572664636391)
        small += 0.14638698708466981 * _tilted_variance(u, ubar, low, 0.56202518975261386)
        small += 0.16717463809436957 * _tilted_variance(u, ubar, low, 0.80198658212639183)
        small += 0.096781590226651679 * _tilted_variance(u, ubar, low, 0.96019014294853126)
    # for small b the difference would lose 1 / b
    return tl.where(b < 0.25, small * k, (u * inverse - zeta) * (1.0 / b))


@triton.jit
def spike_power(a, e, e1, b):
    u, ubar = _upper(a, e, e1)
    log_ubar = log_share(ubar, u)
    log2_t = log_ubar * (b * LOG2E)
    t = tl.exp2(log2_t)
    zeta = one_minus_exp2(log2_t, t)
    slope = b * t * reciprocal(at_least(ubar, _CLAMP))
    return _spike(u, ubar, b, a, zeta, slope, b * t, -t * _finite(log_ubar))


@triton.jit
def spike_root(a, e, e1, b):
    u, ubar = _upper(a, e, e1)
    inverse_b = 1.0 / b
    log_u = log_share(u, ubar)
    zeta = exp2_share(log_u * (inverse_b * LOG2E))
    slope = tl.exp2(_clamped_log(log_u) * (inverse_b * LOG2E)) * inverse_b * reciprocal(at_least(u, _CLAMP))
    return _spike(u, ubar, b, a, zeta, slope, slope * ubar, -zeta * _finite(log_u) * inverse_b * inverse_b)


@triton.jit
def spike_rational(a, e, e1, b):
    u, ubar = _upper(a, e, e1)
    inverse = reciprocal(ubar + b * u)
    zeta = at_most((b * u) * inverse, 1.0)
    slope = (b * inverse) * inverse
    return _spike(u, ubar, b, a, zeta, slope, slope * ubar, (u * inverse) * (ubar * inverse))


@triton.jit
def _sides(a, e, e1):
    """The noise on its own side of the threshold: (whether above, r, near, far). The side's width is p or q,
    1 / (1 + r); far and near are the distances from its end and from the threshold, in units of that width."""
    above = e > a * e1
    r = tl.where(above, a, reciprocal(a))
    outer, inner = tl.where(above, e1, e), tl.where(above, e, e1)
    return above, r, at_least(inner - r * outer, 0.0), at_most(outer + r * outer, 1.0)


@triton.jit
def power(a, e, e1, b):
    above, r, near, far = _sides(a, e, e1)
    log_far = log_share(far, near)
    t = exp2_share(log_far * (b * LOG2E))
    width = reciprocal(1.0 + r)
    part = width * t
    dlogit = (b - 1.0) * part * (r * width)
    dbeta = part * _finite(log_far)
    dnoise = b * t * reciprocal(at_least(far, _CLAMP))
    return tl.where(above, 1.0 - part, part), dlogit, tl.where(above, -dbeta, dbeta), dnoise


@triton.jit
def root(a, e, e1, b):
    above, r, near, far = _sides(a, e, e1)
    inverse_b = 1.0 / b
    log_near = log_share(near, far)
    log2_t = log_near * (inverse_b * LOG2E)
    t = tl.exp2(log2_t)
    width = reciprocal(1.0 + r)
    part = width * one_minus_exp2(log2_t, t)
    log2_t = _clamped_log(log_near) * (inverse_b * LOG2E)
    clamped = tl.exp2(log2_t)
    slope = clamped * inverse_b * reciprocal(at_least(near, _CLAMP))
    dlogit = (far * slope - one_minus_exp2(log2_t, clamped)) * (r * width * width)
    dbeta = width * t * _finite(log_near) * inverse_b * inverse_b
    return tl.where(above, 1.0 - part, part), dlogit, tl.where(above, -dbeta, dbeta), slope


@triton.jit
def exponential_mixture(a, e, e1, b):
    decay, rest = _decay(b)
    inverse_b = 1.0 / b
    # zeta is on the side where B = (e - q) - e^-b (e - p) > 0, which p divides
    upper, lower = e + decay * e1, e1 + decay * e
    high = upper > a * lower
    r = tl.where(high, a, reciprocal(a))
    x, y = tl.where(high, e1, e), tl.where(high, e, e1)
    # in units of the side's own weight 1 / (1 + r): B / 2, and half the root S of B^2 + 4 p q e^-b
    half = 0.5 * at_least((y + decay * x) - r * (x + decay * y), 0.0)
    constant = r * decay
    s = _hypotenuse(half, constant)

    m = at_least_tiny(s + half)  # e^-(b distance), of zeta's distance from the end of its side
    z = x * rest * (1.0 + r) * reciprocal(1.0 + constant * reciprocal(m))
    distance = at_most(log_share(at_most(m, 1.0), z) * -inverse_b, 1.0)

    s = at_least(s, (0.5 * _CLAMP) * (1.0 + r))
    m = s + half
    m1 = constant * reciprocal(m)  # e^-(b (1 - distance)) times the weight of the other side
    z = x * rest * (1.0 + r) * reciprocal(1.0 + m1)
    z1 = y * rest * r * reciprocal(r + m)  # likewise
    slope = (0.5 * inverse_b) * reciprocal(s)
    mean = _mean_exponential(b)
    rise = z * (mean - distance * _mean_exponential(b * distance))
    rise1 = mean - (1.0 - distance) * _mean_exponential(b * (1.0 - distance))
    direct = distance * m - (1.0 - distance) * m1 - (z - z1 * (1.0 + r)) * (decay / rest)
    dbeta = tl.where(_gentle(b), rise * slope - rise1 * (z1 * ((1.0 + r) * slope)), direct * slope)
    zeta = tl.where(high, 1.0 - distance, distance)
    return zeta, z * z1 * slope, tl.where(high, dbeta, -dbeta), rest * ((1.0 + r) * slope)


@triton.jit
def _hypotenuse(size, square):
    """sqrt(size^2 + square), which is no less than size."""
    return at_least(tl.sqrt(size * size + square), size)


@triton.jit
def logistic_mixture(a, e, e1, b):
    decay, rest = _decay(b)
    inverse_b = 1.0 / b
    p = reciprocal(1.0 + a)
    q = a * p
    signed = p * ((e - decay * e1) - a * (e1 - decay * e))  # (e - q) + e^-b (e - p)
    inner = (e >= _LEAST_NOISE) & (e1 >= _LEAST_NOISE)
    e, e1 = at_least(e, _LEAST_NOISE), at_least(e1, _LEAST_NOISE)
    constant = 4.0 * e * e1 * decay
    high, size = signed > 0, tl.abs(signed)
    inverse = reciprocal(tl.where(high, e1, e)) * 0.5
    s = _hypotenuse(size, constant)
    distance = at_most(log(at_least_tiny(s + size) * inverse) * -inverse_b, 1.0)  # inwards from its mean

    x = (at_least(s, _CLAMP) + size) * inverse
    r = tl.where(high, a, reciprocal(a))
    g = (decay + x) * reciprocal(1.0 + x)
    scale = inverse_b * reciprocal(g * g + r * decay)  # over the own side's weight
    dbeta = distance * (g * g * scale) - (1.0 - distance) * (r * decay * scale)
    dnoise = (decay + x) * (1.0 + decay * reciprocal(x)) * scale * (1.0 + r)
    zeta = tl.where(high, 1.0 - distance, distance)
    return (
        zeta,
        tl.where(high, q, p) * rest * g * scale,
        tl.where(high, dbeta, -dbeta),
        tl.where(inner, dnoise, e * (b * 0.0)),
    )


@triton.jit
def power_mixture(a, e, e1, b):
    above, r, near, far = _sides(a, e, e1)
    log_far = log_share(far, near)
    log2_t = log_far * (b * LOG2E)
    t = exp2_share(log2_t)
    t1 = one_minus_exp2(log2_t, t)
    inside = (t > 0) & (t1 > 0)
    log_other = log_share(t1, t) * (1.0 / b)
    power_other = tl.exp2(log_other * LOG2E)
    ratio = t * t1 * reciprocal(at_least_tiny(far * t1 + r * power_other * t))
    flat = far * (b * 0.0)  # NaN where an argument is
    dlogit = tl.where(inside, (r * reciprocal(1.0 + r)) * b * (power_other - near) * ratio, flat)
    dbeta = tl.where(inside, far * ratio * log_far - r * power_other * ratio * log_other, flat)
    return tl.where(above, t1, t), dlogit, tl.where(above, -dbeta, dbeta), flat


@triton.jit
def _log_rate(b):
    """log(b / (1 - e^-b))."""
    square = b * b
    series = square * (-1.0 / 9676800.0) + 1.0 / 181440.0
    if b.dtype != tl.float32:
        series += square * square * (1.0 / 479001600.0)
    series = square * series - 1.0 / 2880.0
    series = square * series + 1.0 / 24.0
    _, rest = _decay(b)
    return tl.where(_gentle(b), 0.5 * b - square * series, log(b / rest))


@triton.jit
def spike_exponential_density(zeta, logit, p, q, log_p, log_q, b):
    zeta1 = 1.0 - zeta
    return log_p + (_log_rate(b) - b * zeta1), b + 0.0 * zeta, q, _beta_mean(b) - zeta1


@triton.jit
def spike_power_density(zeta, logit, p, q, log_p, log_q, b):
    zeta1, inverse_b = 1.0 - zeta, 1.0 / b
    log_zeta1 = log_share(zeta1, zeta)
    log_prob = log_p + ((inverse_b - 1.0) * log_zeta1 - log(b))
    return log_prob, (1.0 - inverse_b) * reciprocal(zeta1), q, -(1.0 + log_zeta1 * inverse_b) * inverse_b


@triton.jit
def spike_root_density(zeta, logit, p, q, log_p, log_q, b):
    log_zeta = log_share(zeta, 1.0 - zeta)
    return log_p + ((b - 1.0) * log_zeta + log(b)), (b - 1.0) * reciprocal(zeta), q, 1.0 / b + log_zeta


@triton.jit
def spike_rational_density(zeta, logit, p, q, log_p, log_q, b):
    zeta1 = 1.0 - zeta
    divisor = zeta + b * zeta1
    inverse = reciprocal(divisor)
    log_prob = log_p + (log(b) - 2.0 * log(divisor))
    return log_prob, 2.0 * (b - 1.0) * inverse, q, 1.0 / b - 2.0 * zeta1 * inverse


@triton.jit
def _zeta_sides(zeta, logit, p, q):
    """zeta on its side of the threshold q: (whether below, 1 / the side's width, near, far), the distances from the
    threshold and from the end in units of that width."""
    distance = tl.where(logit > 0, zeta - q, p - (1.0 - zeta))
    below = distance < 0
    inverse = reciprocal(tl.where(below, q, p))
    far = at_most(tl.where(below, zeta, 1.0 - zeta) * inverse, 1.0)
    return below, inverse, at_most(tl.abs(distance) * inverse, 1.0), far


@triton.jit
def power_density(zeta, logit, p, q, log_p, log_q, b):
    inverse_b = 1.0 / b
    below, _, near, far = _zeta_sides(zeta, logit, p, q)
    log_far = log_share(far, near)
    exponent = 1.0 - inverse_b
    dzeta = exponent * reciprocal(tl.where(below, -zeta, 1.0 - zeta))
    dbeta = -(1.0 + log_far * inverse_b) * inverse_b
    return -log(b) - exponent * log_far, dzeta, exponent * tl.where(below, -p, q), dbeta


@triton.jit
def root_density(zeta, logit, p, q, log_p, log_q, b):
    below, inverse, near, far = _zeta_sides(zeta, logit, p, q)
    log_near = log_share(at_least(near, _CLAMP), far)
    slope = tl.where(near < _CLAMP, 0.0, (b - 1.0) * reciprocal(at_least(near, _CLAMP)))
    slope = tl.where(below, -slope, slope)
    dlogit = slope * far * tl.where(below, p, q)
    return (b - 1.0) * log_near + log(b), slope * inverse, dlogit, 1.0 / b + log_near


@triton.jit
def _log_sum(log_odds, log_first, log_second):
    """(log(e^first + e^second), their shares), log_odds = second - first."""
    second = log_odds > 0
    odds = tl.exp2(tl.abs(log_odds) * -LOG2E)
    larger = reciprocal(1.0 + odds)
    smaller = odds * larger
    total = tl.where(second, log_second, log_first) + log1p(odds)
    return total, tl.where(second, smaller, larger), tl.where(second, larger, smaller)


@triton.jit
def exponential_mixture_density(zeta, logit, p, q, log_p, log_q, b):
    zeta1 = 1.0 - zeta
    log_odds = logit + b * (zeta - zeta1)
    total, w0, w1 = _log_sum(log_odds, log_q - b * zeta, log_p - b * zeta1)
    return _log_rate(b) + total, b * (w1 - w0), w1 - p, _beta_mean(b) - w0 * zeta - w1 * zeta1


@triton.jit
def _logistic(x):
    """(the log density of a standard logistic, tanh(x / 2))."""
    size = tl.abs(x)
    odds = tl.exp2(size * -LOG2E)
    inverse = reciprocal(1.0 + odds)
    tanh = (1.0 - odds) * inverse
    return -size - 2.0 * log1p(odds), tl.where(x < 0, -tanh, tanh)


@triton.jit
def logistic_mixture_density(zeta, logit, p, q, log_p, log_q, b):
    log0, tanh0 = _logistic(b * zeta)
    log1, tanh1 = _logistic(b * (zeta - 1.0))
    total, w0, w1 = _log_sum(logit + (log1 - log0), log_q + log0, log_p + log1)
    pull0, pull1 = w0 * tanh0, w1 * tanh1
    return log(b) + total, -b * (pull0 + pull1), w1 - p, 1.0 / b - pull0 * zeta - pull1 * (zeta - 1.0)


@triton.jit
def power_mixture_density(zeta, logit, p, q, log_p, log_q, b):
    zeta1, inverse_b = 1.0 - zeta, 1.0 / b
    exponent = inverse_b - 1.0
    log0, log1 = log_share(zeta, zeta1), log_share(zeta1, zeta)
    log_odds = logit + exponent * (log1 - log0)
    total, w0, w1 = _log_sum(log_odds, log_q + exponent * log0, log_p + exponent * log1)
    dzeta = exponent * (w0 * reciprocal(zeta) - w1 * reciprocal(zeta1))
    return total - log(b), dzeta, w1 - p, -(1.0 + (w0 * log0 + w1 * log1) * inverse_b) * inverse_b


class Kind(NamedTuple):
    """What else there is to know of a kind is in kinds.py."""

    transform: Any
    density: Any


KINDS = {
    "spike_exponential": Kind(spike_exponential, spike_exponential_density),
    "spike_power": Kind(spike_power, spike_power_density),
    "spike_root": Kind(spike_root, spike_root_density),
    "spike_rational": Kind(spike_rational, spike_rational_density),
    "power": Kind(power, power_density),
    "root": Kind(root, root_density),
    "exponential_mixture": Kind(exponential_mixture, exponential_mixture_density),
    "logistic_mixture": Kind(logistic_mixture, logistic_mixture_density),
    "power_mixture": Kind(power_mixture, power_mixture_density),
}
