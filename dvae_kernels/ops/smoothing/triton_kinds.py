"""The smoothing kinds in Triton: two functions a kind, `name` and `name_density`, which the launchers find by the name.

A transform gets odds = e^-logit in [2^-126, 2^126], the noise eps and rest = 1 - eps, both accurate, and beta > 0; it
returns zeta and its derivatives to the logit, to beta and to the noise. A result that a kernel does not use costs
nothing. A density gets zeta, the bit's p, q = 1 - p, log p and log q, and beta; it returns the log density of zeta and
its derivatives to zeta, to the logit and to beta. All values are tiles [BLOCK]; beta is one, or one number, in
[2^-50, 2^50] or NaN.

Names and order are those of kinds.py and csrc/smoothing/formulas.h, family by family.
"""

from __future__ import annotations

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
def _decay(beta):
    """(e^-beta, 1 - e^-beta)."""
    limit: tl.constexpr = 87.0 if beta.dtype == tl.float32 else 745.0
    decay = tl.where(beta > limit, 0.0, exp(-at_most(beta, limit)))
    return decay, one_minus_exp2(beta * -LOG2E, decay)


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
def _gentle(beta):
    """Whether _mean_exponential is good to the last bits for x <= beta; differences of exponentials lose 1 / beta."""
    if beta.dtype == tl.float32:
        return beta < 1.0
    else:
        return beta < 0.25


@triton.jit
def _beta_mean(beta):
    """_mean_exponential for every beta > 0."""
    decay, complement = _decay(beta)
    return tl.where(_gentle(beta), _mean_exponential(beta), 1.0 / beta - decay / complement)


@triton.jit
def _log_rate(beta):
    """log(beta / (1 - e^-beta))."""
    square = beta * beta
    series = square * (-1.0 / 9676800.0) + 1.0 / 181440.0
    if beta.dtype != tl.float32:
        series += square * square * (1.0 / 479001600.0)
    series = square * series - 1.0 / 2880.0
    series = square * series + 1.0 / 24.0
    _, complement = _decay(beta)
    return tl.where(_gentle(beta), 0.5 * beta - square * series, log(beta / complement))


@triton.jit
def _finite(log_s):
    """log s, finite for s = 0, where its factor is 0."""
    return at_least(log_s, -800.0)


@triton.jit
def _clamped_log(log_s):
    """max(log s, log _CLAMP), whose value as a bare constant would be rounded to float32."""
    return at_least(log_s, tl.full([], -16.635532333438686, log_s.dtype))


@triton.jit
def _upper(odds, eps, rest):
    """(u, 1 - u) of the upper side: u = (eps - q) / p, negative below the threshold."""
    return eps - odds * rest, at_most(rest + odds * rest, 1.0)


@triton.jit
def _spike(u, ubar, beta, odds, zeta, slope, moving, dbeta):
    """The transform that is 0 for u <= 0, from d zeta / du and from its product with 1 - u."""
    above = u > 0
    flat = ubar * (beta * 0.0)  # NaN where an argument is
    return (
        tl.where(above, zeta, flat),
        tl.where(above, moving * (odds * reciprocal(1.0 + odds)), flat),
        tl.where(above, dbeta, flat),
        tl.where(above, slope * (1.0 + odds), flat),
    )


@triton.jit
def spike_exponential(odds, eps, rest, beta):
    u, ubar = _upper(odds, eps, rest)
    decay, complement = _decay(beta)
    inverse_beta = 1.0 / beta
    d = at_least_tiny(u + ubar * decay)
    inverse = reciprocal(d)
    zeta = at_least(log_share(d, ubar * complement) * inverse_beta + 1.0, 0.0)
    slope = complement * inverse_beta * inverse
    return _spike(u, ubar, beta, odds, zeta, slope, slope * ubar, _exponential_dbeta(u, ubar, beta, zeta, inverse))


@triton.jit
def _tilted_variance(u, ubar, beta, node):
    """The variance of a bit whose odds are those of u times e^(node beta), over u (1 - u)."""
    odds = exp(beta * -node)
    inverse = reciprocal(u + ubar * odds)
    return odds * inverse * inverse


@triton.jit
def _exponential_dbeta(u, ubar, beta, zeta, inverse):
    k = u * ubar
    if u.dtype == tl.float32:
        # in cumulants of a bit of mean u
        skew = 1.0 - 2.0 * u
        series = (k * 120.0 - 30.0) * k + 1.0
        series = series * (beta * (1.0 / 144.0)) + skew * (1.0 - 12.0 * k) * (1.0 / 30.0)
        series = series * beta + (1.0 - 6.0 * k) * 0.125
        series = series * beta + skew * (1.0 / 3.0)
        small = series * beta + 0.5
    else:
        # the integral of s times the variance at odds u e^(s beta) / (1 - u) over [0, 1], by Gauss's rule
        low = at_most(beta, 0.25)
        small = 0.015747914521692276 * _tilted_variance(u, ubar, low, 0.098535085798826426)
        small += 0.07390887007261667 * _tilted_variance(u, ubar, low, 0.30453572664636391)
        small += 0.14638698708466981 * _tilted_variance(u, ubar, low, 0.56202518975261386)
        small += 0.16717463809436957 * _tilted_variance(u, ubar, low, 0.80198658212639183)
        small += 0.096781590226651679 * _tilted_variance(u, ubar, low, 0.96019014294853126)
    # for small beta the difference would lose 1 / beta
    return tl.where(beta < 0.25, small * k, (u * inverse - zeta) * (1.0 / beta))


@triton.jit
def spike_exponential_density(zeta, logit, p, q, log_p, log_q, beta):
    zeta1 = 1.0 - zeta
    return log_p + (_log_rate(beta) - beta * zeta1), beta + 0.0 * zeta, q, _beta_mean(beta) - zeta1


@triton.jit
def spike_power(odds, eps, rest, beta):
    u, ubar = _upper(odds, eps, rest)
    log_ubar = log_share(ubar, u)
    log2_t = log_ubar * (beta * LOG2E)
    t = tl.exp2(log2_t)
    zeta = one_minus_exp2(log2_t, t)
    slope = beta * t * reciprocal(at_least(ubar, _CLAMP))
    return _spike(u, ubar, beta, odds, zeta, slope, beta * t, -t * _finite(log_ubar))


@triton.jit
def spike_power_density(zeta, logit, p, q, log_p, log_q, beta):
    zeta1, inverse_beta = 1.0 - zeta, 1.0 / beta
    log_zeta1 = log_share(zeta1, zeta)
    log_prob = log_p + ((inverse_beta - 1.0) * log_zeta1 - log(beta))
    return log_prob, (1.0 - inverse_beta) * reciprocal(zeta1), q, -(1.0 + log_zeta1 * inverse_beta) * inverse_beta


@triton.jit
def spike_root(odds, eps, rest, beta):
    u, ubar = _upper(odds, eps, rest)
    inverse_beta = 1.0 / beta
    log_u = log_share(u, ubar)
    zeta = exp2_share(log_u * (inverse_beta * LOG2E))
    slope = tl.exp2(_clamped_log(log_u) * (inverse_beta * LOG2E)) * inverse_beta * reciprocal(at_least(u, _CLAMP))
    return _spike(u, ubar, beta, odds, zeta, slope, slope * ubar, -zeta * _finite(log_u) * inverse_beta * inverse_beta)


@triton.jit
def spike_root_density(zeta, logit, p, q, log_p, log_q, beta):
    log_zeta = log_share(zeta, 1.0 - zeta)
    return log_p + ((beta - 1.0) * log_zeta + log(beta)), (beta - 1.0) * reciprocal(zeta), q, 1.0 / beta + log_zeta


@triton.jit
def spike_rational(odds, eps, rest, beta):
    u, ubar = _upper(odds, eps, rest)
    inverse = reciprocal(ubar + beta * u)
    zeta = at_most((beta * u) * inverse, 1.0)
    slope = (beta * inverse) * inverse
    return _spike(u, ubar, beta, odds, zeta, slope, slope * ubar, (u * inverse) * (ubar * inverse))


@triton.jit
def spike_rational_density(zeta, logit, p, q, log_p, log_q, beta):
    zeta1 = 1.0 - zeta
    divisor = zeta + beta * zeta1
    inverse = reciprocal(divisor)
    log_prob = log_p + (log(beta) - 2.0 * log(divisor))
    return log_prob, 2.0 * (beta - 1.0) * inverse, q, 1.0 / beta - 2.0 * zeta1 * inverse


@triton.jit
def _sides(odds, eps, rest):
    """The noise on its own side of the threshold: (whether above, r, near, far). The side's width is p or q,
    1 / (1 + r); far and near are the distances from its end and from the threshold, in units of that width."""
    above = eps > odds * rest
    r = tl.where(above, odds, reciprocal(odds))
    outer, inner = tl.where(above, rest, eps), tl.where(above, eps, rest)
    return above, r, at_least(inner - r * outer, 0.0), at_most(outer + r * outer, 1.0)


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
def power(odds, eps, rest, beta):
    above, r, near, far = _sides(odds, eps, rest)
    log_far = log_share(far, near)
    t = exp2_share(log_far * (beta * LOG2E))
    width = reciprocal(1.0 + r)
    part = width * t
    dlogit = (beta - 1.0) * part * (r * width)
    dbeta = part * _finite(log_far)
    dnoise = beta * t * reciprocal(at_least(far, _CLAMP))
    return tl.where(above, 1.0 - part, part), dlogit, tl.where(above, -dbeta, dbeta), dnoise


@triton.jit
def power_density(zeta, logit, p, q, log_p, log_q, beta):
    inverse_beta = 1.0 / beta
    below, _, near, far = _zeta_sides(zeta, logit, p, q)
    log_far = log_share(far, near)
    exponent = 1.0 - inverse_beta
    dzeta = exponent * reciprocal(tl.where(below, -zeta, 1.0 - zeta))
    dbeta = -(1.0 + log_far * inverse_beta) * inverse_beta
    return -log(beta) - exponent * log_far, dzeta, exponent * tl.where(below, -p, q), dbeta


@triton.jit
def root(odds, eps, rest, beta):
    above, r, near, far = _sides(odds, eps, rest)
    inverse_beta = 1.0 / beta
    log_near = log_share(near, far)
    log2_t = log_near * (inverse_beta * LOG2E)
    t = tl.exp2(log2_t)
    width = reciprocal(1.0 + r)
    part = width * one_minus_exp2(log2_t, t)
    log2_t = _clamped_log(log_near) * (inverse_beta * LOG2E)
    clamped = tl.exp2(log2_t)
    slope = clamped * inverse_beta * reciprocal(at_least(near, _CLAMP))
    dlogit = (far * slope - one_minus_exp2(log2_t, clamped)) * (r * width * width)
    dbeta = width * t * _finite(log_near) * inverse_beta * inverse_beta
    return tl.where(above, 1.0 - part, part), dlogit, tl.where(above, -dbeta, dbeta), slope


@triton.jit
def root_density(zeta, logit, p, q, log_p, log_q, beta):
    below, inverse, near, far = _zeta_sides(zeta, logit, p, q)
    log_near = log_share(at_least(near, _CLAMP), far)
    slope = tl.where(near < _CLAMP, 0.0, (beta - 1.0) * reciprocal(at_least(near, _CLAMP)))
    slope = tl.where(below, -slope, slope)
    dlogit = slope * far * tl.where(below, p, q)
    return (beta - 1.0) * log_near + log(beta), slope * inverse, dlogit, 1.0 / beta + log_near


@triton.jit
def _hypotenuse(size, square):
    """sqrt(size^2 + square), which is no less than size."""
    return at_least(tl.sqrt(size * size + square), size)


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
def exponential_mixture(odds, eps, rest, beta):
    decay, complement = _decay(beta)
    inverse_beta = 1.0 / beta
    # zeta is on the side where B = (eps - q) - e^-beta (eps - p) > 0, which p divides
    upper, lower = eps + decay * rest, rest + decay * eps
    high = upper > odds * lower
    r = tl.where(high, odds, reciprocal(odds))
    x, y = tl.where(high, rest, eps), tl.where(high, eps, rest)
    # in units of the side's own weight 1 / (1 + r): B / 2, and half the root S of B^2 + 4 p q e^-beta
    half = 0.5 * at_least((y + decay * x) - r * (x + decay * y), 0.0)
    constant = r * decay
    s = _hypotenuse(half, constant)

    m = at_least_tiny(s + half)  # e^-(beta distance), of zeta's distance from the end of its side
    z = x * complement * (1.0 + r) * reciprocal(1.0 + constant * reciprocal(m))
    distance = at_most(log_share(at_most(m, 1.0), z) * -inverse_beta, 1.0)

    # the interpreter of Triton 3.7 and newer takes a product that begins with a constexpr for one
    s = at_least(s, (1.0 + r) * (0.5 * _CLAMP))
    m = s + half
    m1 = constant * reciprocal(m)  # e^-(beta (1 - distance)) times the weight of the other side
    z = x * complement * (1.0 + r) * reciprocal(1.0 + m1)
    z1 = y * complement * r * reciprocal(r + m)  # likewise
    slope = (0.5 * inverse_beta) * reciprocal(s)
    mean = _mean_exponential(beta)
    rise = z * (mean - distance * _mean_exponential(beta * distance))
    rise1 = mean - (1.0 - distance) * _mean_exponential(beta * (1.0 - distance))
    direct = distance * m - (1.0 - distance) * m1 - (z - z1 * (1.0 + r)) * (decay / complement)
    dbeta = tl.where(_gentle(beta), rise * slope - rise1 * (z1 * ((1.0 + r) * slope)), direct * slope)
    zeta = tl.where(high, 1.0 - distance, distance)
    return zeta, z * z1 * slope, tl.where(high, dbeta, -dbeta), complement * ((1.0 + r) * slope)


@triton.jit
def exponential_mixture_density(zeta, logit, p, q, log_p, log_q, beta):
    zeta1 = 1.0 - zeta
    log_odds = logit + beta * (zeta - zeta1)
    total, w0, w1 = _log_sum(log_odds, log_q - beta * zeta, log_p - beta * zeta1)
    return _log_rate(beta) + total, beta * (w1 - w0), w1 - p, _beta_mean(beta) - w0 * zeta - w1 * zeta1


@triton.jit
def logistic_mixture(odds, eps, rest, beta):
    decay, complement = _decay(beta)
    inverse_beta = 1.0 / beta
    p = reciprocal(1.0 + odds)
    q = odds * p
    signed = p * ((eps - decay * rest) - odds * (rest - decay * eps))  # (eps - q) + e^-beta (eps - p)
    inner = (eps >= _LEAST_NOISE) & (rest >= _LEAST_NOISE)
    eps, rest = at_least(eps, _LEAST_NOISE), at_least(rest, _LEAST_NOISE)
    constant = 4.0 * eps * rest * decay
    high, size = signed > 0, tl.abs(signed)
    inverse = reciprocal(tl.where(high, rest, eps)) * 0.5
    s = _hypotenuse(size, constant)
    distance = at_most(log(at_least_tiny(s + size) * inverse) * -inverse_beta, 1.0)  # inwards from its mean

    x = (at_least(s, _CLAMP) + size) * inverse
    r = tl.where(high, odds, reciprocal(odds))
    g = (decay + x) * reciprocal(1.0 + x)
    scale = inverse_beta * reciprocal(g * g + r * decay)  # over the own side's weight
    dbeta = distance * (g * g * scale) - (1.0 - distance) * (r * decay * scale)
    dnoise = (decay + x) * (1.0 + decay * reciprocal(x)) * scale * (1.0 + r)
    zeta = tl.where(high, 1.0 - distance, distance)
    return (
        zeta,
        tl.where(high, q, p) * complement * g * scale,
        tl.where(high, dbeta, -dbeta),
        tl.where(inner, dnoise, eps * (beta * 0.0)),
    )


@triton.jit
def _logistic(x):
    """(the log density of a standard logistic, tanh(x / 2))."""
    size = tl.abs(x)
    odds = tl.exp2(size * -LOG2E)
    inverse = reciprocal(1.0 + odds)
    tanh = (1.0 - odds) * inverse
    return -size - 2.0 * log1p(odds), tl.where(x < 0, -tanh, tanh)


@triton.jit
def logistic_mixture_density(zeta, logit, p, q, log_p, log_q, beta):
    log0, tanh0 = _logistic(beta * zeta)
    log1, tanh1 = _logistic(beta * (zeta - 1.0))
    total, w0, w1 = _log_sum(logit + (log1 - log0), log_q + log0, log_p + log1)
    pull0, pull1 = w0 * tanh0, w1 * tanh1
    return log(beta) + total, -beta * (pull0 + pull1), w1 - p, 1.0 / beta - pull0 * zeta - pull1 * (zeta - 1.0)


@triton.jit
def power_mixture(odds, eps, rest, beta):
    above, r, near, far = _sides(odds, eps, rest)
    log_far = log_share(far, near)
    log2_t = log_far * (beta * LOG2E)
    t = exp2_share(log2_t)
    t1 = one_minus_exp2(log2_t, t)
    inside = (t > 0) & (t1 > 0)
    log_other = log_share(t1, t) * (1.0 / beta)
    power_other = tl.exp2(log_other * LOG2E)
    ratio = t * t1 * reciprocal(at_least_tiny(far * t1 + r * power_other * t))
    flat = far * (beta * 0.0)  # NaN where an argument is
    dlogit = tl.where(inside, (r * reciprocal(1.0 + r)) * beta * (power_other - near) * ratio, flat)
    dbeta = tl.where(inside, far * ratio * log_far - r * power_other * ratio * log_other, flat)
    return tl.where(above, t1, t), dlogit, tl.where(above, -dbeta, dbeta), flat


@triton.jit
def power_mixture_density(zeta, logit, p, q, log_p, log_q, beta):
    zeta1, inverse_beta = 1.0 - zeta, 1.0 / beta
    exponent = inverse_beta - 1.0
    log0, log1 = log_share(zeta, zeta1), log_share(zeta1, zeta)
    log_odds = logit + exponent * (log1 - log0)
    total, w0, w1 = _log_sum(log_odds, log_q + exponent * log0, log_p + exponent * log1)
    dzeta = exponent * (w0 * reciprocal(zeta) - w1 * reciprocal(zeta1))
    return total - log(beta), dzeta, w1 - p, -(1.0 + (w0 * log0 + w1 * log1) * inverse_beta) * inverse_beta
