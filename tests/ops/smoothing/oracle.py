"""Smoothing transformations in 50 digits, from their textbook definitions and numeric differentiation: written without
the formulas of the package, for the grid of test_smoothing.py.

Everything is a function of the logit, the noise and beta, as mpmath numbers. Where a slope diverges, gradients are
those of the documented clamp, and what is not documented is None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mpmath
from mpmath import mpf

CLAMP = mpf(2) ** -24
LEAST_NOISE = mpf(2) ** -64
QUADRATIC = ("exponential_mixture", "logistic_mixture")
SPIKES = ("spike_exponential", "spike_power", "spike_root", "spike_rational")

Number = mpf
Function = Callable[[Number, Number, Number], Number]


class Exact(NamedTuple):
    """zeta and its derivatives; None where only finiteness is promised."""

    zeta: Number | None
    dlogits: Number | None
    dbeta: Number | None
    dnoise: Number | None


def probability(logit: Number) -> tuple[Number, Number]:
    """(p, 1 - p), both relatively accurate."""
    return 1 / (1 + mpmath.exp(-logit)), 1 / (1 + mpmath.exp(logit))


def slope(function: Callable[[Number], Number], x: Number, side: int = 0) -> Number:
    """The derivative to 20 digits or more, from one side of `x` where the other is outside. mpmath.diff takes the wrong
    step at numbers like 1e-9000."""
    h = (abs(x) if x else mpf(1)) * mpf(10) ** (-30 if side else -20)
    with mpmath.workdps(80):
        low, high = x - h * (side <= 0), x + h * (side >= 0)
        return (function(high) - function(low)) / (high - low)


def curve(kind: str, u: Number, beta: Number) -> Number:
    """The spike kinds above the threshold, u = (noise + p - 1) / p."""
    if kind == "spike_exponential":
        return mpmath.log(u * mpmath.expm1(beta) + 1) / beta
    if kind == "spike_power":
        return 1 - (1 - u) ** beta
    if kind == "spike_root":
        return u ** (1 / beta)
    return beta * u / (1 - u + beta * u)


def sample(kind: str, logit: Number, noise: Number, beta: Number) -> Number:
    p, q = probability(logit)
    above = noise > q
    if kind in SPIKES:
        return curve(kind, (noise - q) / p, beta) if above else mpf(0)
    if kind == "power":
        return 1 - p * ((1 - noise) / p) ** beta if above else q * (noise / q) ** beta
    if kind == "root":
        return 1 - p * (1 - ((noise - q) / p) ** (1 / beta)) if above else q * (1 - ((q - noise) / q) ** (1 / beta))
    if kind == "power_mixture":
        return 1 - ((1 - noise) / p) ** beta if above else (noise / q) ** beta
    e = mpmath.exp(-beta)
    c, root = _discriminant(kind, logit, noise, beta)
    least, most = _inside(noise)
    first, last = (q, -p * e) if kind == "exponential_mixture" else (least, -most * e)
    return -mpmath.log((root + c) / (2 * first) if c > 0 else -2 * last / (root - c)) / beta


def _inside(noise: Number) -> tuple[Number, Number]:
    """The noise and its complement away from the ends, where a sample of the whole line would be infinite."""
    return max(noise, LEAST_NOISE), max(1 - noise, LEAST_NOISE)


def _discriminant(kind: str, logit: Number, noise: Number, beta: Number) -> tuple[Number, Number]:
    """(c, the root of the discriminant) of a x^2 - c x + b = 0, which says of x = exp(-beta zeta) that the mixture's
    distribution function is the noise: q (1 - x) / (1 - e) + p (e / x - e) / (1 - e) = noise for the exponentials,
    q / (1 + x) + p / (1 + x / e) = noise for the logistics."""
    p, q = probability(logit)
    e = mpmath.exp(-beta)
    if kind == "exponential_mixture":
        c, product = q - p * e - noise * (1 - e), p * q * e
    else:
        least, most = _inside(noise)
        c, product = q + p * e - noise * (1 + e), least * most * e
    return c, mpmath.sqrt(c * c + 4 * product)


def _differentiate(kind: str, point: tuple[Number, Number, Number]) -> Exact:
    logit, noise, beta = point
    side = 1 if noise == 0 else -1 if noise == 1 else 0
    return Exact(
        sample(kind, *point),
        slope(lambda x: sample(kind, x, noise, beta), logit),
        slope(lambda x: sample(kind, logit, noise, x), beta),
        slope(lambda x: sample(kind, logit, x, beta), noise, side),
    )


def _mixture(logit: Number, noise: Number, beta: Number) -> Exact:
    """power_mixture: the derivatives at a fixed value F of the mixture's distribution function, -F_x / F_zeta."""
    p, q = probability(logit)
    zeta, other = (noise / q) ** beta, ((1 - noise) / p) ** beta
    above = noise > q
    zeta, other = (1 - other, other) if above else (zeta, 1 - zeta)  # the smaller one has its digits
    if zeta == 0 or other == 0:
        return Exact(zeta, mpf(0), mpf(0), None)

    def low(b: Number) -> Number:  # R0
        return mpmath.exp((mpmath.log1p(-other) if above else mpmath.log(zeta)) / b)

    def high(b: Number) -> Number:  # R1
        return -mpmath.expm1((mpmath.log(other) if above else mpmath.log1p(-zeta)) / b)

    def mixed(x: Number, b: Number) -> Number:
        p, q = probability(x)
        return q * low(b) + p * high(b)

    density = sum(weight * slope(lambda x: x ** (1 / beta), x) for weight, x in ((q, zeta), (p, other)))
    return Exact(
        zeta,
        -slope(lambda x: mixed(x, beta), logit) / density,
        -slope(lambda x: mixed(logit, x), beta) / density,
        None,
    )


def transform(kind: str, logit: float, noise: float, beta: float) -> Exact:
    """With the documented clamps."""
    x, eps, b = point = mpf(logit), mpf(noise), mpf(beta)
    p, q = probability(x)
    above = eps > q
    near, far = ((eps - q) / p, (1 - eps) / p) if above else ((q - eps) / q, eps / q)
    if kind == "power_mixture":
        return _mixture(*point)
    if kind in SPIKES and not above:
        return Exact(mpf(0), mpf(0), mpf(0), mpf(0))
    if kind in ("power", "spike_power") and far == 0:  # an end, where the derivative to the noise may be infinite
        return Exact(mpf(above), mpf(0), mpf(0), mpf(0))
    if kind == "logistic_mixture" and eps in (0, 1):  # where zeta is infinite
        return _differentiate(kind, point)._replace(dnoise=mpf(0))
    exact = _differentiate(kind, point)
    if kind in ("power", "spike_power") and far < CLAMP:
        return exact._replace(dnoise=exact.dnoise * far / CLAMP)
    if kind in ("root", "spike_root") and near < CLAMP:
        steepest = slope(lambda s: s ** (1 / b), CLAMP)
        if kind == "spike_root":
            return exact._replace(dlogits=steepest * far * q, dnoise=steepest / p)
        # the sides are q and p wide, and d(near) / dp is far / width
        return exact._replace(dlogits=p * q * (CLAMP ** (1 / b) - 1 + far * steepest), dnoise=steepest)
    if kind in QUADRATIC and _discriminant(kind, *point)[1] < CLAMP:  # a jump: its slopes are clamped
        return Exact(None, None, None, None)
    return exact


def log_density(kind: str, zeta: Number, logit: Number, beta: Number) -> Number:
    """The log density at a point inside the support; of a spike kind at 0, the log mass."""
    p, q = probability(logit)
    log = mpmath.log
    if kind in SPIKES and zeta == 0:
        return log(q)
    if kind == "spike_exponential":
        return log(p * beta / (1 - mpmath.exp(-beta))) - beta * (1 - zeta)
    if kind == "spike_power":
        return log(p / beta) + (1 / beta - 1) * log(1 - zeta)
    if kind == "spike_root":
        return log(p * beta) + (beta - 1) * log(zeta)
    if kind == "spike_rational":
        return log(p * beta) - 2 * log(beta - (beta - 1) * zeta)
    if kind == "power":
        return -log(beta) - (1 - 1 / beta) * log(zeta / q if zeta < q else (1 - zeta) / p)
    if kind == "root":
        return log(beta) + (beta - 1) * log((q - zeta) / q if zeta < q else (zeta - q) / p)
    return log(q * _component(kind, zeta, beta) + p * _component(kind, 1 - zeta, beta))


def _component(kind: str, x: Number, beta: Number) -> Number:
    """The density of a mixture's component at 0; that at 1 is its mirror image."""
    if kind == "exponential_mixture":
        return beta * mpmath.exp(-beta * x) / (1 - mpmath.exp(-beta))
    if kind == "logistic_mixture":
        return beta * mpmath.exp(-beta * x) / (1 + mpmath.exp(-beta * x)) ** 2
    return x ** (1 / beta - 1) / beta


def log_prob(kind: str, zeta: float, logit: float, beta: float) -> tuple[Number, Number, Number, Number]:
    """(the log density, its derivatives to zeta, the logit and beta)."""
    z, x, b = mpf(zeta), mpf(logit), mpf(beta)
    return (
        log_density(kind, z, x, b),
        slope(lambda value: log_density(kind, value, x, b), z) if z or kind not in SPIKES else mpf(0),
        slope(lambda value: log_density(kind, z, value, b), x),
        slope(lambda value: log_density(kind, z, x, value), b),
    )
