"""The smoothing kinds in plain torch: the value, the gradients and the log density of each.

A kind is one class here, listed in KINDS at the end of the file; no other file of the reference knows its formulas. All
functions work elementwise and are differentiable: a value that must not reach a gradient is replaced before a function
is taken, not after. They expect finite beta > 0 and noise in [0, 1]; NaN passes through, and the caller marks the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dvae_kernels._bounds import at_least, at_most, within

# Slopes that diverge are taken at no less than this distance from their singular place.
CLAMP = 2.0**-24
# Noise nearer to an end is taken as this far from it where zeta would be infinite there; the stream's is at most 2^-33.
LEAST_NOISE = 2.0**-64


class Bit:
    """A bit that is 1 with p = sigmoid(logits), and its uniform noise `eps` with `rest` = 1 - eps.

    p, q = 1 - p, eps and rest are all relatively accurate; d = eps - q = p - rest is from the smaller numbers.
    """

    def __init__(self, logits: Tensor, eps: Tensor, rest: Tensor):
        self.positive = logits > 0
        self.logits = _finite(logits)
        odds = torch.exp(-self.logits)  # q / p
        self.inverse_p = 1 + odds
        self.p = 1 / self.inverse_p
        self.q = odds * self.p
        self.eps, self.rest = eps, rest
        self.d = torch.where(self.positive, eps - self.q, self.p - rest)
        self.above = self.d > 0

    def d1(self) -> Tensor:
        """eps - p = q - rest, from the smaller numbers."""
        return torch.where(self.positive, self.q - self.rest, self.eps - self.p)

    def inverse_q(self) -> Tensor:
        return 1 + torch.exp(self.logits)

    def upper(self) -> tuple[Tensor, Tensor]:
        """(u, 1 - u) of the upper side, u = d / p; (1/2, 1/2) elsewhere."""
        u, ubar = at_most(self.d * self.inverse_p, 1), at_most(self.rest * self.inverse_p, 1)
        return torch.where(self.above, u, 0.5), torch.where(self.above, ubar, 0.5)

    def sides(self) -> tuple[Tensor, Tensor]:
        """The noise on its own side, as (distance from the threshold, distance from the end), both in units of the
        side's width: (u, 1 - u) above, (-d / q, eps / q) below."""
        inverse_q = self.inverse_q()
        near = torch.where(self.above, self.d * self.inverse_p, -self.d * inverse_q)
        far = torch.where(self.above, self.rest * self.inverse_p, self.eps * inverse_q)
        return at_most(near, 1), at_most(far, 1)

    def width(self) -> Tensor:
        """p above the threshold, q below."""
        return torch.where(self.above, self.p, self.q)

    def sign(self, x: Tensor) -> Tensor:
        """-x above the threshold, x below."""
        return torch.where(self.above, -x, x)


class Density:
    """A bit and a point zeta inside the support, as the log densities take them."""

    def __init__(self, zeta: Tensor, logits: Tensor):
        self.logits = logits
        self.zeta, self.zeta1 = zeta, 1 - zeta
        self.p, self.q = torch.sigmoid(logits), torch.sigmoid(-logits)
        self.log_p, self.log_q = -_softplus(-logits), -_softplus(logits)


class Kind:
    """The transform zeta(logits, noise, beta), its gradients, and the log density of zeta."""

    name: str
    origin: str  # its name in the project's source text, the seed, or the paper that it is from
    typical_beta: tuple[float, float]  # first and last sharpness that train well: the steeper the slope, the lower
    spike = False  # zeta is exactly 0 below the threshold: a point mass
    whole_line = False  # the support is not [0, 1]
    noise_grad = True
    vanishes_at_one = False  # the gradient to the logits is 0 at beta = 1 and changes sign there
    unbounded_slope = False  # the slope at the threshold has no second moment, and is clamped

    value: Callable[[Bit, Tensor], Tensor]
    gradient: Callable[[Bit, Tensor], Iterator[Tensor]]  # to the logits, beta and noise, made one after the other
    log_prob: Callable[[Density, Tensor], Tensor]
    log_prob_gradient: Callable[[Density, Tensor], tuple[Tensor, Tensor, Tensor]]  # to (zeta, logits, beta)


class Spike(Kind):
    """0 where noise <= 1 - p, else a curve of u = (noise + p - 1) / p that does not depend on p."""

    spike = True

    curve: Callable[[Tensor, Tensor, Tensor], Tensor]
    # to log p at fixed noise, which is that to u times ubar, to beta and to u
    curve_gradient: Callable[[Tensor, Tensor, Tensor], Iterator[Tensor]]
    curve_log_density: Callable[[Density, Tensor], Tensor]  # log of du/dzeta
    curve_log_density_gradient: Callable[[Density, Tensor], tuple[Tensor, Tensor]]  # to (zeta, beta)

    @classmethod
    def value(cls, bit: Bit, beta: Tensor) -> Tensor:
        return torch.where(bit.above, cls.curve(*bit.upper(), beta), 0)

    @classmethod
    def gradient(cls, bit: Bit, beta: Tensor) -> Iterator[Tensor]:
        slopes = cls.curve_gradient(*bit.upper(), beta)
        yield torch.where(bit.above, next(slopes) * bit.q, 0)
        yield torch.where(bit.above, next(slopes), 0)
        dnoise = next(slopes) * bit.inverse_p
        yield torch.where(bit.above, at_most(dnoise, torch.finfo(dnoise.dtype).max / 2), 0)

    @classmethod
    def log_prob(cls, at: Density, beta: Tensor) -> Tensor:
        return at.log_p + cls.curve_log_density(at, beta)

    @classmethod
    def log_prob_gradient(cls, at: Density, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dzeta, dbeta = cls.curve_log_density_gradient(at, beta)
        return dzeta, at.q, dbeta


class SpikeExponential(Spike):
    """f1 of the seed: log(u (e^beta - 1) + 1) / beta, Rolfe's spike-and-exponential."""

    name = "spike_exponential"
    origin = "f1"
    typical_beta = (1.0, 5.0)

    @staticmethod
    def curve(u: Tensor, ubar: Tensor, beta: Tensor) -> Tensor:
        # a logarithm of a rounded number near 1 would lose 1 / beta
        near_one = torch.log1p(-torch.where(beta > 1, 0, ubar * _complement(beta)))
        zeta = 1 + torch.where(beta > 1, torch.log(u + ubar * torch.exp(-beta)), near_one) / beta
        return at_least(zeta, 0)  # not below by a rounding

    @staticmethod
    def curve_gradient(u: Tensor, ubar: Tensor, beta: Tensor) -> Iterator[Tensor]:
        slope = _complement(beta) / (beta * (u + ubar * torch.exp(-beta)))
        yield slope * ubar
        # the integral over s in [0, 1] of s times the variance of a bit with odds u e^(s beta) / ubar, all positive
        small = torch.zeros_like(u)
        low = at_most(beta, 0.25)
        for node, weight in _GAUSS:
            odds = torch.exp(-node * low)
            small = small + weight * odds / (u + ubar * odds).square()
        direct = u / (u + ubar * torch.exp(-beta)) - SpikeExponential.curve(u, ubar, beta)
        yield torch.where(beta < 0.25, u * ubar * small, direct / beta)
        yield slope

    @staticmethod
    def curve_log_density(at: Density, beta: Tensor) -> Tensor:
        return torch.log(beta / _complement(beta)) - beta * at.zeta1

    @staticmethod
    def curve_log_density_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor]:
        return beta.expand_as(at.zeta), _mean_exponential(beta) - at.zeta1


class SpikePower(Spike):
    """f2 of the seed: 1 - (1 - u)^beta."""

    name = "spike_power"
    origin = "f2"
    typical_beta = (3.0, 16.0)

    @staticmethod
    def curve(u: Tensor, ubar: Tensor, beta: Tensor) -> Tensor:
        return -torch.expm1(beta * _log(ubar, u))

    @staticmethod
    def curve_gradient(u: Tensor, ubar: Tensor, beta: Tensor) -> Iterator[Tensor]:
        power = _power(ubar, u, beta)
        yield beta * power
        yield -power * _finite_log(ubar, u)
        yield beta * power / at_least(ubar, CLAMP)

    @staticmethod
    def curve_log_density(at: Density, beta: Tensor) -> Tensor:
        return (1 / beta - 1) * torch.log1p(-at.zeta) - torch.log(beta)

    @staticmethod
    def curve_log_density_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - 1 / beta) / at.zeta1, -(1 + torch.log1p(-at.zeta) / beta) / beta


class SpikeRoot(Spike):
    """f2' of the seed: u^(1 / beta)."""

    name = "spike_root"
    origin = "f2'"
    typical_beta = (1.5, 4.0)
    unbounded_slope = True

    @staticmethod
    def curve(u: Tensor, ubar: Tensor, beta: Tensor) -> Tensor:
        return _power(u, ubar, 1 / beta)

    @staticmethod
    def curve_gradient(u: Tensor, ubar: Tensor, beta: Tensor) -> Iterator[Tensor]:
        near = at_least(u, CLAMP)
        slope = _power(near, ubar, 1 / beta) / (beta * near)
        yield slope * ubar
        yield -_power(u, ubar, 1 / beta) * _finite_log(u, ubar) / beta / beta
        yield slope

    @staticmethod
    def curve_log_density(at: Density, beta: Tensor) -> Tensor:
        return torch.log(beta) + (beta - 1) * torch.log(at.zeta)

    @staticmethod
    def curve_log_density_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor]:
        return (beta - 1) / at.zeta, 1 / beta + torch.log(at.zeta)


class SpikeRational(Spike):
    """f2'' of the seed, corrected: beta u / (1 - u + beta u)."""

    name = "spike_rational"
    origin = "f2'', corrected"
    typical_beta = (4.0, 32.0)

    @staticmethod
    def curve(u: Tensor, ubar: Tensor, beta: Tensor) -> Tensor:
        return beta * u / (ubar + beta * u)

    @staticmethod
    def curve_gradient(u: Tensor, ubar: Tensor, beta: Tensor) -> Iterator[Tensor]:
        inverse = 1 / (ubar + beta * u)
        slope = beta * inverse * inverse
        yield slope * ubar
        yield (u * inverse) * (ubar * inverse)
        yield slope

    @staticmethod
    def curve_log_density(at: Density, beta: Tensor) -> Tensor:
        return torch.log(beta) - 2 * torch.log(at.zeta + beta * at.zeta1)

    @staticmethod
    def curve_log_density_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor]:
        divisor = at.zeta + beta * at.zeta1
        return 2 * (beta - 1) / divisor, 1 / beta - 2 * at.zeta1 / divisor


class Power(Kind):
    """f3 of the seed: q (eps / q)^beta below the threshold, 1 - p ((1 - eps) / p)^beta above."""

    name = "power"
    origin = "f3"
    typical_beta = (8.0, 24.0)
    vanishes_at_one = True

    @staticmethod
    def value(bit: Bit, beta: Tensor) -> Tensor:
        near, far = bit.sides()
        part = bit.width() * _power(far, near, beta)
        return torch.where(bit.above, 1 - part, part)

    @staticmethod
    def gradient(bit: Bit, beta: Tensor) -> Iterator[Tensor]:
        near, far = bit.sides()
        power = _power(far, near, beta)
        yield bit.p * bit.q * (beta - 1) * power
        yield bit.sign(bit.width() * power * _finite_log(far, near))
        yield beta * power / at_least(far, CLAMP)

    @staticmethod
    def log_prob(at: Density, beta: Tensor) -> Tensor:
        return (1 / beta - 1) * Power._log_far(at) - torch.log(beta)

    @staticmethod
    def log_prob_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        below = at.zeta < at.q
        exponent = 1 - 1 / beta
        dzeta = exponent / torch.where(below, -at.zeta, at.zeta1)
        dlogits = exponent * torch.where(below, -at.p, at.q)
        return dzeta, dlogits, -(1 + Power._log_far(at) / beta) / beta

    @staticmethod
    def _log_far(at: Density) -> Tensor:
        """log of zeta / q below, of (1 - zeta) / p above."""
        below = at.zeta < at.q
        return at_most(torch.where(below, torch.log(at.zeta) - at.log_q, torch.log1p(-at.zeta) - at.log_p), 0)


class Root(Kind):
    """f3' of the seed: q (1 - v^(1 / beta)) below the threshold, v = 1 - eps / q; 1 - p (1 - u^(1 / beta)) above."""

    name = "root"
    origin = "f3', corrected"
    typical_beta = (1.5, 8.0)
    vanishes_at_one = True
    unbounded_slope = True

    @staticmethod
    def value(bit: Bit, beta: Tensor) -> Tensor:
        near, far = bit.sides()
        part = -bit.width() * torch.expm1(_log(near, far) / beta)
        return torch.where(bit.above, 1 - part, part)

    @staticmethod
    def gradient(bit: Bit, beta: Tensor) -> Iterator[Tensor]:
        near, far = bit.sides()
        clamped = at_least(near, CLAMP)
        log = _log(clamped, far) / beta
        yield bit.p * bit.q * (torch.expm1(log) + torch.exp(log) * (far / (beta * clamped)))
        yield bit.sign(bit.width() * _power(near, far, 1 / beta) * _finite_log(near, far)) / beta / beta
        yield _power(clamped, far, 1 / beta) / (beta * clamped)

    @staticmethod
    def log_prob(at: Density, beta: Tensor) -> Tensor:
        return torch.log(beta) + (beta - 1) * Root._near(at)[1]

    @staticmethod
    def log_prob_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        near, log, below = Root._near(at)
        slope = torch.where(near < CLAMP, 0, (beta - 1) / at_least(near, CLAMP))
        odds, inverse_odds = torch.exp(_finite(at.logits)), torch.exp(-_finite(at.logits))
        dzeta = slope * torch.where(below, -(1 + odds), 1 + inverse_odds)
        dlogits = slope * torch.where(below, -at.zeta * odds, at.zeta1 * inverse_odds)
        return dzeta, dlogits, 1 / beta + log

    @staticmethod
    def _near(at: Density) -> tuple[Tensor, Tensor, Tensor]:
        """(the distance from zeta to the threshold in units of its side's width, its clamped logarithm, whether zeta is
        below)."""
        distance = torch.where(at.logits > 0, at.zeta - at.q, at.p - at.zeta1)
        below = distance < 0
        width = torch.where(below, at.q, at.p)
        width = torch.where(width > 0, width, 1)
        near, far = distance.abs() / width, torch.where(below, at.zeta, at.zeta1) / width
        return near, _log(at_least(near, CLAMP), far), below


class ExponentialMixture(Kind):
    """The mixture of two truncated exponentials, falling from 0 with weight q and from 1 with weight p, of DVAE++."""

    name = "exponential_mixture"
    origin = "DVAE++"
    typical_beta = (6.0, 16.0)

    @staticmethod
    def value(bit: Bit, beta: Tensor) -> Tensor:
        low, log, *_ = ExponentialMixture._parts(bit, beta, 0.0)
        return within(torch.where(low, -log, 1 + log), 0, 1)  # not outside by a rounding

    @staticmethod
    def gradient(bit: Bit, beta: Tensor) -> Iterator[Tensor]:
        low, log, z, z1, m, m1, s = ExponentialMixture._parts(bit, beta, CLAMP)
        yield bit.p * bit.q * z * (z1 / beta) / s
        rise = ExponentialMixture._rise(torch.where(low, -log, 1 + log), z, m, beta)
        rise1 = ExponentialMixture._rise(torch.where(low, 1 + log, -log), z1, m1, beta)
        yield (bit.p * rise1 - bit.q * rise) / (beta * s)
        yield _complement(beta) / beta / s

    @staticmethod
    def log_prob(at: Density, beta: Tensor) -> Tensor:
        terms = torch.logaddexp(at.log_q - beta * at.zeta, at.log_p - beta * at.zeta1)
        return torch.log(beta / _complement(beta)) + terms

    @staticmethod
    def log_prob_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        odds = at.logits + beta * (at.zeta - at.zeta1)
        w0, w1 = torch.sigmoid(-odds), torch.sigmoid(odds)
        dbeta = _mean_exponential(beta) - w0 * at.zeta - w1 * at.zeta1
        return beta * (w1 - w0), w1 - at.p, dbeta

    @staticmethod
    def _parts(bit: Bit, beta: Tensor, floor: float) -> tuple[Tensor, ...]:
        """(B <= 0, log, z, z1, 1 - z, 1 - z1, S): log is -zeta where B <= 0 and zeta - 1 elsewhere,
        z = 1 - e^(-beta zeta), z1 = 1 - e^(-beta (1 - zeta)); B and S >= floor of the quadratic equation of 1 - z."""
        decay, complement = torch.exp(-beta), _complement(beta)
        b = bit.d - decay * bit.d1()
        s = _hypotenuse(b, 4 * bit.p * bit.q * decay, floor)
        low = b <= 0
        big = at_least(s + b.abs(), torch.finfo(b.dtype).tiny)
        small = 4 * bit.p * bit.q * decay / big
        z = 2 * bit.eps * complement / (2 * bit.q + torch.where(low, small, big))
        z1 = 2 * bit.rest * complement / (2 * bit.p + torch.where(low, big, small))
        own = at_most(big / (2 * torch.where(low, bit.q, bit.p)), 1)  # 1 - z where B <= 0, 1 - z1 elsewhere
        gentle = beta <= 1
        log = torch.log1p(-torch.where(gentle, torch.where(low, z, z1), 0))
        log = torch.where(gentle, log, torch.log(torch.where(gentle, 1, own))) / beta
        return low, log, z, z1, torch.where(low, own, decay / own), torch.where(low, decay / own, own), s

    @staticmethod
    def _rise(x: Tensor, z: Tensor, m: Tensor, beta: Tensor) -> Tensor:
        """K times the derivative to beta of the distribution function z / K, z = 1 - m = 1 - e^(-beta x).

        Small beta: a difference of means, since that of the exponentials loses 1 / beta.
        """
        low = at_most(beta, 0.25)
        gentle = z * (_mean_exponential(low) - x * _mean_exponential(low * x))
        return torch.where(beta < 0.25, gentle, x * m - z * torch.exp(-beta) / _complement(beta))


class LogisticMixture(Kind):
    """The mixture of two logistic distributions of scale 1 / beta, at 0 with weight q and at 1 with weight p."""

    name = "logistic_mixture"
    origin = "DVAE++"
    typical_beta = (8.0, 16.0)
    whole_line = True

    @staticmethod
    def value(bit: Bit, beta: Tensor) -> Tensor:
        high, x = LogisticMixture._root(bit, beta, 0.0)
        log = torch.log(x) / beta
        return torch.where(high, 1 + log, -log)

    @staticmethod
    def gradient(bit: Bit, beta: Tensor) -> Iterator[Tensor]:
        high, x = LogisticMixture._root(bit, beta, CLAMP)
        decay = torch.exp(-beta)
        own, other = torch.where(high, bit.p, bit.q), torch.where(high, bit.q, bit.p)
        g = (decay + x) / (1 + x)
        # 1 / (beta den), where the density is E den / ((E + X) (1 + E / X)) with E = e^-beta
        scale = 1 / (beta * (own * g.square() + other * decay))
        yield bit.p * bit.q * (_complement(beta) * g * scale)
        log = torch.log(x) / beta
        part = (-own * log * g.square() - other * (1 + log) * decay) * scale
        yield torch.where(high, part, -part)
        inside = (bit.eps >= LEAST_NOISE) & (bit.rest >= LEAST_NOISE)
        yield torch.where(inside, (decay + x) * (1 + decay / x) * scale, 0)

    @staticmethod
    def log_prob(at: Density, beta: Tensor) -> Tensor:
        first, second = (_logistic(beta * x) for x in (at.zeta, at.zeta1))
        return torch.log(beta) + torch.logaddexp(at.log_q + first, at.log_p + second)

    @staticmethod
    def log_prob_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x0, x1 = beta * at.zeta, -beta * at.zeta1
        odds = at.logits + _logistic(x1) - _logistic(x0)
        w0, w1 = torch.sigmoid(-odds), torch.sigmoid(odds)
        pull0, pull1 = w0 * torch.tanh(x0 / 2), w1 * torch.tanh(x1 / 2)
        return -beta * (pull0 + pull1), w1 - at.p, 1 / beta - pull0 * at.zeta + pull1 * at.zeta1

    @staticmethod
    def _root(bit: Bit, beta: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """(B > 0, X): log X is beta (zeta - 1) there, -beta zeta elsewhere."""
        eps, rest = at_least(bit.eps, LEAST_NOISE), at_least(bit.rest, LEAST_NOISE)
        b = bit.d + torch.exp(-beta) * bit.d1()
        high = b > 0
        s = _hypotenuse(b, 4 * eps * rest * torch.exp(-beta), floor)
        return high, at_least(s + b.abs(), torch.finfo(b.dtype).tiny) / (2 * torch.where(high, rest, eps))


class PowerMixture(Kind):
    """The mixture of the power distributions R0 = zeta^(1 / beta), weight q, and R1 = 1 - (1 - zeta)^(1 / beta), of
    DVAE#. One noise draws the bit, and its remainder zeta; the gradient is the implicit one, of noise that is fixed as
    the mixture's own distribution function."""

    name = "power_mixture"
    origin = "DVAE#"
    typical_beta = (10.0, 40.0)
    noise_grad = False
    vanishes_at_one = True

    @staticmethod
    def value(bit: Bit, beta: Tensor) -> Tensor:
        near, far = bit.sides()
        log = beta * _log(far, near)
        return torch.where(bit.above, -torch.expm1(log), torch.exp(log))

    @staticmethod
    def gradient(bit: Bit, beta: Tensor) -> Iterator[Tensor]:
        """With t = far^beta and den the density times beta t (1 - t). There is none to noise."""
        near, far = bit.sides()
        log = beta * _finite_log(far, near)
        t1 = -torch.expm1(log)
        inside = (far > 0) & (t1 > 0)  # where zeta is inside (0, 1)
        far = at_least(far, LEAST_NOISE)  # it is a divisor
        log = torch.where(inside, log, -1)
        t, t1 = torch.exp(log), -torch.expm1(log)
        low = log < -1
        log_other = torch.where(low, torch.log1p(-torch.where(low, t, 0)), torch.log(torch.where(low, 1, t1))) / beta
        power_other = torch.exp(log_other)  # (1 - t)^(1 / beta)
        own, other = torch.where(bit.above, bit.p, bit.q), torch.where(bit.above, bit.q, bit.p)
        den = own * far * t1 + other * power_other * t
        inside = inside & (den > 0)
        ratio = torch.where(inside, t * (t1 / torch.where(inside, den, 1)), 0)
        excess = torch.where(far < 0.5, far + torch.expm1(log_other), power_other - near)
        yield bit.p * bit.q * (beta * excess * ratio)
        part = own * far * (log / beta) - other * power_other * log_other
        yield torch.where(inside, bit.sign(part * ratio), 0)

    @staticmethod
    def log_prob(at: Density, beta: Tensor) -> Tensor:
        exponent = 1 / beta - 1
        first, second = exponent * torch.log(at.zeta), exponent * torch.log1p(-at.zeta)
        return torch.logaddexp(at.log_q + first, at.log_p + second) - torch.log(beta)

    @staticmethod
    def log_prob_gradient(at: Density, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        exponent = 1 / beta - 1
        log0, log1 = torch.log(at.zeta), torch.log1p(-at.zeta)
        odds = at.logits + exponent * (log1 - log0)
        w0, w1 = torch.sigmoid(-odds), torch.sigmoid(odds)
        dbeta = -(1 + (w0 * log0 + w1 * log1) / beta) / beta
        return exponent * (w0 / at.zeta - w1 / at.zeta1), w1 - at.p, dbeta


# Gauss's rule on [0, 1] with the weight s, exact for polynomials up to degree 9: (node, weight).
_GAUSS = (
    (0.09853508579882643, 0.015747914521692276), (0.30453572664636390, 0.073908870072616670),
    (0.56202518975261390, 0.146386987084669810), (0.80198658212639180, 0.167174638094369570),
    (0.96019014294853130, 0.096781590226651680),
)  # fmt: skip

# 1 / x - 1 / (e^x - 1) - 1/2: the coefficients of x, x^3, ...
_MEAN_SERIES = (-1 / 12, 1 / 720, -1 / 30240, 1 / 1209600, -1 / 47900160)


def _finite(logits: Tensor) -> Tensor:
    """The logits, clamped to where p and q are normal numbers."""
    limit = (1022 if logits.dtype == torch.float64 else 126) * math.log(2)
    return within(logits, -limit, limit)


def _softplus(x: Tensor) -> Tensor:
    positive = x > 0  # not by |x|, whose gradient at 0 is 0
    return torch.where(positive, x, 0) + torch.log1p(torch.exp(torch.where(positive, -x, x)))


def _complement(beta: Tensor) -> Tensor:
    """K = 1 - e^-beta."""
    return -torch.expm1(-beta)


def _mean_exponential(x: Tensor) -> Tensor:
    """1 / x - 1 / (e^x - 1): the mean of an exponential of rate x on [0, 1]."""
    small = x < 0.25
    low, high = torch.where(small, x, 0), torch.where(small, 1, x)
    square = low * low
    series = torch.full_like(low, _MEAN_SERIES[-1])
    for coefficient in _MEAN_SERIES[-2::-1]:
        series = series * square + coefficient
    return torch.where(small, 0.5 + series * low, 1 / high - torch.exp(-high) / _complement(high))


def _log(s: Tensor, rest: Tensor) -> Tensor:
    """log s for s > 0, from rest = 1 - s where that is the smaller number."""
    close = s > 0.5
    return torch.where(close, torch.log1p(-torch.where(close, rest, 0)), torch.log(torch.where(close, 1, s)))


def _finite_log(s: Tensor, rest: Tensor) -> Tensor:
    """log s, and that of the smallest normal number where s is less."""
    return _log(at_least(s, torch.finfo(s.dtype).tiny), rest)


def _power(s: Tensor, rest: Tensor, exponent: Tensor) -> Tensor:
    """s^exponent for s in [0, 1] with rest = 1 - s: exactly 0 where s is."""
    positive = s > 0
    log = _log(torch.where(positive, s, 1), torch.where(positive, rest, 0))
    return torch.where(positive, torch.exp(exponent * log), 0)


def _hypotenuse(b: Tensor, square: Tensor, floor: float) -> Tensor:
    """sqrt(b^2 + square), at least |b| and `floor`; no gradient where it is raised."""
    total = b.square() + square
    tiny = torch.finfo(b.dtype).tiny
    root = torch.where(total > tiny, torch.sqrt(at_least(total, tiny)), b.abs())
    return at_least(root, floor) if floor else root


def _logistic(x: Tensor) -> Tensor:
    """The log density of a standard logistic."""
    return -x.abs() - 2 * torch.log1p(torch.exp(-x.abs()))


KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        SpikeExponential, SpikePower, SpikeRoot, SpikeRational, Power, Root, ExponentialMixture, LogisticMixture,
        PowerMixture,
    )
}  # fmt: skip


def find_kind(name: str, *, noise_grad: bool = False) -> type[Kind]:
    """The kind of that name; ValueError for another one, and where it has not the gradient to noise that is needed."""
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}, expected one of {', '.join(KINDS)}")
    if noise_grad and not KINDS[name].noise_grad:
        raise ValueError(f"{name} has no gradient to noise")
    return KINDS[name]
