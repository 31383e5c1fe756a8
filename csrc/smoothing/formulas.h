// The smoothing transformations: one struct per kind, written once for scalars (CUDA) and SIMD vectors (CPU) in the
// words of common/scalar_math.h and simd/math.h. F is the scalar or vector; Math holds its functions. The file has no
// include guard: kernels.cuh includes it in namespace dvae, cpu_kernels.h once per target. The op's README.md derives
// the formulas.
//
// A kind belongs to a family, and gives it the functions that differ:
//   SpikeFamily    zeta = 0 up to the threshold eps = q, a rise from 0 to 1 behind it; its density given a one
//   SplitFamily    zeta = q x below the threshold, 1 - p x above it; the density of zeta
//   MixtureFamily  zeta drawn from q r(zeta | 0) + p r(zeta | 1); the densities of both components
// It has a name, a constructor, which computes all that depends on beta alone, and a place in SmoothingKinds.
// For 1 <= beta <= largest_fast_exponent the fast path meets the float32 error budget: it skips the branches guarded by
// Math::needs_slow_path() and takes powers through plain log2. From 3 on the log1p path is more accurate, at 1.5 times
// the cost.

// A transformed bit and its derivatives.
template <class F>
struct Smoothed {
  F zeta, dlogit, dbeta, deps;
};

// A log density and its derivatives.
template <class F>
struct LogDensity {
  F log, dzeta, dlogit, dbeta;
};

// A slope that is infinite at a point is evaluated no closer to it than this.
template <class F>
constexpr Lane<F> kClamp = Lane<F>(0x1p-24);
// The least normal number and the largest below one, at which densities are evaluated in place of 0 and 1.
template <class F>
constexpr Lane<F> kLeast = kLeastNormal<Lane<F>>;
template <class F>
constexpr Lane<F> kTop = 1 - kEpsilon<Lane<F>> / 2;

// Beta within bounds for which its square and inverse are normal numbers. NaN passes.
template <class F>
DVAE_INLINE F nearest_beta(F beta) {
  return min(F(Lane<F>(0x1p50)), max(F(Lane<F>(0x1p-50)), beta));
}
template <class F>
DVAE_INLINE F minus(F x) {
  return F(0) - x;
}
// The logarithm of x >= 0, kept finite.
template <class F, class Math>
DVAE_INLINE F logarithm(const Math& f, F x) {
  return f.log2(max(F(kLeast<F>), x)) * F(kLn2<Lane<F>>);
}
// The logarithm of x in [0, 1], kept finite, from rest = 1 - x where that is the smaller number.
template <class F, class Math>
DVAE_INLINE F logarithm(const Math& f, F x, F rest) {
  return f.log(max(F(kLeast<F>), x), rest);
}
// x^exponent for x in [0, 1] and rest = 1 - x.
template <class F, class Math>
DVAE_INLINE F power_of(const Math& f, F x, F rest, F exponent) {
  const F log = min(F(0), f.log2_for_power(max(F(kLeast<F>), x), rest, exponent));
  return select(x == F(0), F(0), exp2(log * exponent));
}

// The probabilities of a bit from its log odds: finite, and each with its relative accuracy.
template <class F>
struct BitOdds {
  F odds;  // of a zero, q / p = e^-l
  F p, q, inverse_p, inverse_q;

  DVAE_INLINE explicit BitOdds(F logit) {
    constexpr Lane<F> bound = sizeof(Lane<F>) == 4 ? 87 : 708;
    odds = fast_exp(max(F(-bound), min(F(bound), minus(logit))));  // NaN passes
    inverse_p = F(1) + odds;
    p = reciprocal(inverse_p);
    q = min(F(1), odds * p);
    inverse_q = F(1) + reciprocal(odds);
  }
};

// A bit and its noise eps in [0, 1], which comes with its distance `rest` from 1.
template <class F>
struct NoisyBit : BitOdds<F> {
  F eps, rest;
  F u;     // (eps - q) / p, positive above the threshold; only given numbers cancel
  F ubar;  // rest / p: 1 - u above the threshold

  DVAE_INLINE NoisyBit(F logit, F eps, F rest) : BitOdds<F>(logit), eps(eps), rest(rest) {
    u = fma(minus(this->odds), rest, eps);
    ubar = min(F(1), rest * this->inverse_p);
  }

  // 0, or NaN where the logit or the noise is
  DVAE_INLINE F zero() const { return u - u; }
};

// Logarithms of the probabilities.
template <class F>
struct LogOdds : BitOdds<F> {
  F log_p, log_q;

  template <class Math>
  DVAE_INLINE LogOdds(const Math& f, F logit) : BitOdds<F>(logit) {
    const F tail = logarithm(f, F(1) + min(this->odds, reciprocal(this->odds)));
    log_p = minus(max(F(0), minus(logit)) + tail);
    log_q = minus(max(F(0), logit) + tail);
  }
};

// e^-beta, complement = 1 - e^-beta, and functions of beta that keep their relative accuracy.
template <class F>
struct Decay {
  F beta, value, complement;

  DVAE_INLINE explicit Decay(F beta)
      : beta(beta), value(exp2(beta * F(-kLog2e<Lane<F>>))), complement(one_minus_exp(beta)) {}

  // log(beta / complement), the logarithm of the largest density
  template <class Math>
  DVAE_INLINE F log_height(const Math& f) const { return logarithm(f, beta) - logarithm(f, complement); }

  // the derivative of log_height, 1/beta - 1/expm1(beta)
  DVAE_INLINE F log_height_slope() const {
    return select(small(), near_zero(beta), quotient(F(1), beta) - quotient(value, complement));
  }

  // complement times the beta-derivative of F(x) = rise / complement, the distribution function of rate beta on [0, 1],
  // where rise = 1 - decay and decay = e^(-beta x)
  template <class Math>
  DVAE_INLINE F distribution_slope(const Math& f, F x, F rise, F decay) const {
    F slope = fma(x, decay, minus(rise * quotient(value, complement)));
    if (f.needs_slow_path(small())) slope = select(small(), rise * (near_zero(beta) - x * near_zero(beta * x)), slope);
    return slope;
  }

  // whether differences of exponentials would cancel
  DVAE_INLINE auto small() const { return F(Lane<F>(0.25)) > beta; }

 private:
  // 1/x - 1/expm1(x) for small x
  DVAE_INLINE static F near_zero(F x) {
    constexpr double odd[4] = {1. / 1209600, -1. / 30240, 1. / 720, -1. / 12};
    F series(Lane<F>(-1. / 47900160));
    for (int i = 0; i < 4; ++i) series = fma(series, x * x, F(Lane<F>(odd[i])));
    return fma(series, x, F(Lane<F>(0.5)));
  }
};

// zeta above the threshold, as a function of u in (0, 1].
template <class F>
struct Rise {
  F zeta, du, du_ubar, dbeta;  // du_ubar: dzeta/du * ubar, which may be finite where du is not
};

// log r(zeta | 1) and its derivatives.
template <class F>
struct LogSlice {
  F log, dzeta, dbeta;
};

template <class F, class Math, class Kind>
struct SpikeFamily {
  static constexpr bool noise_has_gradient = true;
  static constexpr double largest_fast_exponent = 0x1p50;

  DVAE_INLINE Smoothed<F> transform(const Math& f, const NoisyBit<F>& bit) const {
    const Rise<F> rise = static_cast<const Kind*>(this)->rise(f, bit.u, bit.ubar);
    const auto above = bit.u > F(0);
    const F flat = bit.zero();
    return {select(above, rise.zeta, flat), select(above, rise.du_ubar * bit.q, flat), select(above, rise.dbeta, flat),
            select(above, min(F(kLargest<Lane<F>> / 2), rise.du * bit.inverse_p), flat)};
  }

  // The logarithm of the mass q at zeta = 0, of the density elsewhere.
  DVAE_INLINE LogDensity<F> log_density(const Math& f, F zeta, F logit) const {
    const LogOdds<F> bit(f, logit);
    const F inside = min(F(kTop<F>), max(F(kLeast<F>), zeta));
    const LogSlice<F> slice = static_cast<const Kind*>(this)->slice(f, inside);
    const auto mass = zeta == F(0);
    const auto outside = (F(0) > zeta) | (zeta > F(1));
    const auto flat = mass | outside;
    return {select(mass, bit.log_q, select(outside, F(kMinusInfinity<Lane<F>>), bit.log_p + slice.log)),
            select(inside == zeta, slice.dzeta, F(0)), select(mass, minus(bit.p), select(outside, F(0), bit.q)),
            select(flat, F(0), slice.dbeta)};
  }
};

// zeta = log(1 + u (e^beta - 1)) / beta, r(zeta | 1) = beta e^(-beta (1 - zeta)) / (1 - e^-beta)
template <class F, class Math = Functions<F>>
struct SpikeExponential : SpikeFamily<F, Math, SpikeExponential<F, Math>> {
  static constexpr const char* name = "spike_exponential";
  F beta, inverse_beta;
  Decay<F> decay;

  DVAE_INLINE SpikeExponential(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)), decay(beta) {}

  DVAE_INLINE Rise<F> rise(const Math& f, F u, F ubar) const {
    const F d = min(F(1), max(F(kLeast<F>), fma(ubar, decay.value, u)));
    F log = logarithm(f, d);
    const auto small = F(1) > beta;  // the rounding of d would be magnified by 1 / beta
    if (f.needs_slow_path(small)) log = select(small, f.log1p(minus(ubar * decay.complement)), log);
    const F zeta = max(F(0), fma(log, inverse_beta, F(1))), r = reciprocal(d), du = decay.complement * inverse_beta * r;
    F dbeta = (u * r - zeta) * inverse_beta;
    if (f.needs_slow_path(decay.small())) dbeta = select(decay.small(), integral(u, ubar), dbeta);
    return {zeta, du, du * ubar, dbeta};
  }

  // dzeta/dbeta for small beta: the integral over s in [0, 1] of s times the variance of a bit with the odds
  // u e^(beta s) / ubar, by Gauss's rule for the weight s.
  DVAE_INLINE F integral(F u, F ubar) const {
    constexpr double nodes[5] = {0.09853508579882643, 0.30453572664636390, 0.56202518975261390, 0.80198658212639180,
                                 0.96019014294853130};
    constexpr double weights[5] = {0.015747914521692276, 0.073908870072616670, 0.146386987084669810,
                                   0.167174638094369570, 0.096781590226651680};
    F sum(0);
    for (int i = 0; i < 5; ++i) {
      const F odds = exp2(beta * F(Lane<F>(-nodes[i] * kLog2e<double>))), r = reciprocal(fma(ubar, odds, u));
      sum = fma(odds * r, r * F(Lane<F>(weights[i])), sum);
    }
    return u * ubar * sum;
  }

  DVAE_INLINE LogSlice<F> slice(const Math& f, F zeta) const {
    const F zeta1 = F(1) - zeta;
    return {decay.log_height(f) - beta * zeta1, beta, decay.log_height_slope() - zeta1};
  }
};

// zeta = 1 - ubar^beta, r(zeta | 1) = (1 - zeta)^(1/beta - 1) / beta
template <class F, class Math = Functions<F>>
struct SpikePower : SpikeFamily<F, Math, SpikePower<F, Math>> {
  static constexpr const char* name = "spike_power";
  static constexpr double largest_fast_exponent = 24;
  F beta, inverse_beta;

  DVAE_INLINE SpikePower(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)) {}

  DVAE_INLINE Rise<F> rise(const Math& f, F u, F ubar) const {
    const F t = power_of(f, ubar, u, beta), dt = beta * t;
    return {F(1) - t, dt * reciprocal(max(F(kClamp<F>), ubar)), dt, minus(t * logarithm(f, ubar, u))};
  }
  DVAE_INLINE LogSlice<F> slice(const Math& f, F zeta) const {
    const F zeta1 = F(1) - zeta, log = logarithm(f, zeta1, zeta), exponent = inverse_beta - F(1);
    return {fma(exponent, log, minus(logarithm(f, beta))), minus(quotient(exponent, zeta1)),
            minus(fma(log, inverse_beta, F(1)) * inverse_beta)};
  }
};

// zeta = u^(1/beta), r(zeta | 1) = beta zeta^(beta - 1)
template <class F, class Math = Functions<F>>
struct SpikeRoot : SpikeFamily<F, Math, SpikeRoot<F, Math>> {
  static constexpr const char* name = "spike_root";
  F beta, inverse_beta;

  DVAE_INLINE SpikeRoot(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)) {}

  DVAE_INLINE Rise<F> rise(const Math& f, F u, F ubar) const {
    const F zeta = power_of(f, u, ubar, inverse_beta), log = logarithm(f, u, ubar);
    const F nearest = max(F(kClamp<F>), u);
    const F du = power_of(f, nearest, ubar, inverse_beta) * inverse_beta * reciprocal(nearest);
    return {zeta, du, du * ubar, minus(zeta * log * (inverse_beta * inverse_beta))};
  }
  DVAE_INLINE LogSlice<F> slice(const Math& f, F zeta) const {
    const F log = logarithm(f, zeta, F(1) - zeta);
    return {fma(beta - F(1), log, logarithm(f, beta)), quotient(beta - F(1), zeta), inverse_beta + log};
  }
};

// zeta = beta u / (ubar + beta u), r(zeta | 1) = beta / (zeta + beta (1 - zeta))^2
template <class F, class Math = Functions<F>>
struct SpikeRational : SpikeFamily<F, Math, SpikeRational<F, Math>> {
  static constexpr const char* name = "spike_rational";
  F beta, inverse_beta;

  DVAE_INLINE SpikeRational(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)) {}

  DVAE_INLINE Rise<F> rise(const Math&, F u, F ubar) const {
    const F r = reciprocal(fma(beta, u, ubar)), du = beta * r * r;
    return {min(F(1), beta * u * r), du, du * ubar, (u * r) * (ubar * r)};
  }
  DVAE_INLINE LogSlice<F> slice(const Math& f, F zeta) const {
    const F zeta1 = F(1) - zeta, d = fma(beta, zeta1, zeta), r = quotient(F(1), d);
    return {logarithm(f, beta) - F(2) * logarithm(f, d), F(2) * (beta - F(1)) * r, inverse_beta - F(2) * zeta1 * r};
  }
};

// x in zeta = q x below the threshold and zeta = 1 - p x above it, as a function of the distance `far` from the side's
// end and `near` = 1 - far from the threshold, both in units of the side's width q or p.
template <class F>
struct Fold {
  F x, dp, dbeta, dfar;  // dp: dzeta/dp
};

template <class F, class Math, class Kind>
struct SplitFamily {
  static constexpr bool noise_has_gradient = true;
  static constexpr double largest_fast_exponent = 0x1p50;

  DVAE_INLINE Smoothed<F> transform(const Math& f, const NoisyBit<F>& bit) const {
    const auto above = bit.u > F(0);
    const F width = select(above, bit.p, bit.q);
    const F far = min(F(1), select(above, bit.rest * bit.inverse_p, bit.eps * bit.inverse_q));
    const F near = min(F(1), select(above, bit.u, minus(bit.u * bit.p) * bit.inverse_q));
    const Fold<F> fold = static_cast<const Kind*>(this)->fold(f, far, near);
    const F x = width * fold.x, dbeta = width * fold.dbeta;
    return {select(above, F(1) - x, x), bit.p * bit.q * fold.dp, select(above, minus(dbeta), dbeta),
            fold.dfar + bit.zero()};
  }

  DVAE_INLINE LogDensity<F> log_density(const Math& f, F zeta, F logit) const {
    const BitOdds<F> bit(logit);
    const F inside = min(F(kTop<F>), max(F(kLeast<F>), zeta)), zeta1 = F(1) - inside;
    const F margin = select(logit > F(0), inside - bit.q, bit.p - zeta1);
    const auto below = F(0) > margin;
    const auto outside = (F(0) > zeta) | (zeta > F(1));
    const F inverse_width = select(below, bit.inverse_q, bit.inverse_p);
    const F far = min(F(1), select(below, inside, zeta1) * inverse_width);
    const F near = min(F(1), absolute(margin) * inverse_width);
    // far and near change with the logit as p q / width, with zeta as 1 / width, and the density with them
    const F other = select(below, bit.p, bit.q);
    const LogSlice<F> slice = static_cast<const Kind*>(this)->slice(f, far, near);
    const F dzeta = quotient(slice.dzeta, far) * inverse_width, dlogit = slice.dzeta * other;
    return {select(outside, F(kMinusInfinity<Lane<F>>), slice.log),
            select(inside == zeta, select(below, dzeta, minus(dzeta)), F(0)),
            select(outside, F(0), select(below, dlogit, minus(dlogit))), select(outside, F(0), slice.dbeta)};
  }
};

// x = far^beta; the density is far_of_zeta^(1/beta - 1) / beta
template <class F, class Math = Functions<F>>
struct Power : SplitFamily<F, Math, Power<F, Math>> {
  static constexpr const char* name = "power";
  static constexpr double largest_fast_exponent = 24;
  F beta, inverse_beta;

  DVAE_INLINE Power(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)) {}

  DVAE_INLINE Fold<F> fold(const Math& f, F far, F near) const {
    const F t = power_of(f, far, near, beta);
    return {t, (beta - F(1)) * t, t * logarithm(f, far, near), beta * t * reciprocal(max(F(kClamp<F>), far))};
  }
  // dzeta is the derivative to log(far), which is finite
  DVAE_INLINE LogSlice<F> slice(const Math& f, F far, F near) const {
    const F log = logarithm(f, far, near), exponent = inverse_beta - F(1);
    return {fma(exponent, log, minus(logarithm(f, beta))), exponent,
            minus(fma(log, inverse_beta, F(1)) * inverse_beta)};
  }
};

// x = 1 - near^(1/beta); the density is beta near_of_zeta^(beta - 1)
template <class F, class Math = Functions<F>>
struct Root : SplitFamily<F, Math, Root<F, Math>> {
  static constexpr const char* name = "root";
  F beta, inverse_beta;

  DVAE_INLINE Root(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)) {}

  DVAE_INLINE Fold<F> fold(const Math& f, F far, F near) const {
    const F t = power_of(f, near, far, inverse_beta), log = logarithm(f, near, far);
    const F nearest = max(F(kClamp<F>), near), slope = power_of(f, nearest, far, inverse_beta);
    const F dfar = slope * inverse_beta * reciprocal(nearest);
    return {F(1) - t, fma(dfar, far, slope - F(1)), t * log * (inverse_beta * inverse_beta), dfar};
  }
  DVAE_INLINE LogSlice<F> slice(const Math& f, F far, F near) const {
    const F nearest = max(F(kClamp<F>), near), log = logarithm(f, nearest, far);
    const F dnear = select(near == nearest, quotient(beta - F(1), nearest), F(0));
    return {fma(beta - F(1), log, logarithm(f, beta)), minus(dnear * far), inverse_beta + log};
  }
};

// log r(zeta | 0) and log r(zeta | 1) and their derivatives.
template <class F>
struct LogComponents {
  LogSlice<F> zero, one;
};

template <class F, class Math, class Kind>
struct MixtureFamily {
  static constexpr bool noise_has_gradient = true;
  static constexpr double largest_fast_exponent = 0x1p50;

  DVAE_INLINE LogDensity<F> log_density(const Math& f, F zeta, F logit) const {
    constexpr bool unit = Kind::unit_interval;
    const LogOdds<F> bit(f, logit);
    const F inside = unit ? min(F(kTop<F>), max(F(kLeast<F>), zeta)) : zeta;
    const LogComponents<F> log = static_cast<const Kind*>(this)->components(f, inside);
    const F zero = bit.log_q + log.zero.log, one = bit.log_p + log.one.log;
    const BitOdds<F> posterior(logit + (log.one.log - log.zero.log));  // of the component that zeta came from
    const F sum = max(zero, one) + logarithm(f, F(1) + min(posterior.odds, reciprocal(posterior.odds)));
    const F dzeta = fma(posterior.q, log.zero.dzeta, posterior.p * log.one.dzeta);
    const F dbeta = fma(posterior.q, log.zero.dbeta, posterior.p * log.one.dbeta);
    const auto outside = unit ? (F(0) > zeta) | (zeta > F(1)) : absolute(zeta) > F(kLargest<Lane<F>>);
    return {select(outside, F(kMinusInfinity<Lane<F>>), sum),
            select(outside, F(0), select(inside == zeta, dzeta, F(0))),
            select(outside, F(0), posterior.p - bit.p), select(outside, F(0), dbeta)};
  }
};

// The greater and the smaller of sqrt(b^2 + c) +- b for c >= 0, without cancellation, and their mean s.
template <class F>
struct QuadraticRoots {
  F s, greater, smaller;

  DVAE_INLINE QuadraticRoots(F b, F c) {
    s = max(square_root(fma(b, b, c)), absolute(b));  // b^2 may underflow
    greater = s + absolute(b);
    smaller = c * reciprocal(max(F(kLeast<F>), greater));
  }
  // s as a divisor of slopes, which are infinite at s = 0
  DVAE_INLINE F nearest_s() const { return max(F(kClamp<F>), s); }
};

// d = eps - q = p - rest, and d1 = eps - p = q - rest.
template <class F>
struct Margins {
  F d, d1;

  DVAE_INLINE explicit Margins(const NoisyBit<F>& bit)
      : d(bit.u * bit.p), d1(fma(minus(reciprocal(bit.odds)), bit.rest, bit.eps) * bit.q) {}
};

// DVAE++: r(zeta | 0) = beta e^(-beta zeta) / (1 - e^-beta), r(zeta | 1) its mirror image.
template <class F, class Math = Functions<F>>
struct ExponentialMixture : MixtureFamily<F, Math, ExponentialMixture<F, Math>> {
  static constexpr const char* name = "exponential_mixture";
  static constexpr bool unit_interval = true;
  F beta, inverse_beta;
  Decay<F> decay;

  DVAE_INLINE ExponentialMixture(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)), decay(beta) {}

  // m = e^(-beta zeta) solves q m^2 + b m = p e, and n = e^(-beta (1 - zeta)) the same with p and q exchanged and -b.
  DVAE_INLINE Smoothed<F> transform(const Math& f, const NoisyBit<F>& bit) const {
    const F e = decay.value, complement = decay.complement, p = bit.p, q = bit.q;
    const Margins<F> margin(bit);
    const F b = fma(minus(e), margin.d1, margin.d);
    const QuadraticRoots<F> root(b, F(4) * p * q * e);
    const auto upper = b > F(0);
    const F s_plus_b = select(upper, root.greater, root.smaller), s_minus_b = select(upper, root.smaller, root.greater);
    // 1 - m and 1 - n from the quadratic equations that they solve
    const F one_minus_m = F(2) * complement * bit.eps * reciprocal(max(F(kLeast<F>), fma(F(2), q, s_plus_b)));
    const F one_minus_n = F(2) * complement * bit.rest * reciprocal(max(F(kLeast<F>), fma(F(2), p, s_minus_b)));
    const F own = min(F(1), root.greater * F(Lane<F>(0.5)) * select(upper, bit.inverse_p, bit.inverse_q));
    F log = logarithm(f, own);  // of n in the upper half, else of m
    const auto small = F(1) > beta;
    if (f.needs_slow_path(small)) log = select(small, f.log1p(minus(select(upper, one_minus_n, one_minus_m))), log);
    const F distance = min(F(1), max(F(0), minus(log * inverse_beta)));
    const F zeta = select(upper, F(1) - distance, distance) + bit.zero();

    const F slope = inverse_beta * reciprocal(root.nearest_s());
    const F other = quotient(e, max(F(kLeast<F>), own)), m = select(upper, other, own), n = select(upper, own, other);
    const F from_zero = q * decay.distribution_slope(f, zeta, one_minus_m, m);
    const F from_one = p * decay.distribution_slope(f, F(1) - zeta, one_minus_n, n);
    return {zeta, p * q * one_minus_m * one_minus_n * slope, (from_one - from_zero) * slope,
            complement * slope};
  }
  DVAE_INLINE LogComponents<F> components(const Math& f, F zeta) const {
    const F height = decay.log_height(f), slope = decay.log_height_slope(), zeta1 = F(1) - zeta;
    return {{height - beta * zeta, minus(beta), slope - zeta}, {height - beta * zeta1, beta, slope - zeta1}};
  }
};

// DVAE++: both r are logistic densities of scale 1 / beta, around 0 and around 1, on the whole line.
template <class F, class Math = Functions<F>>
struct LogisticMixture : MixtureFamily<F, Math, LogisticMixture<F, Math>> {
  static constexpr const char* name = "logistic_mixture";
  static constexpr bool unit_interval = false;
  F beta, inverse_beta;
  Decay<F> decay;

  DVAE_INLINE LogisticMixture(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)), decay(beta) {}

  // x = e^(-beta zeta) solves eps x^2 + b x = (1 - eps) e. Zeta comes from x in the lower half, and 1 - zeta from the
  // mirror image in the upper one. Noise of 0 or 1 is moved inside, since zeta would be infinite.
  DVAE_INLINE Smoothed<F> transform(const Math& f, const NoisyBit<F>& bit) const {
    const F e = decay.value, p = bit.p, q = bit.q;
    const F least_noise(Lane<F>(0x1p-64));
    const F eps = max(least_noise, bit.eps), rest = max(least_noise, bit.rest);
    const Margins<F> margin(bit);
    const F b = fma(e, margin.d1, margin.d);
    const QuadraticRoots<F> root(b, F(4) * eps * rest * e);
    const auto upper = b > F(0);
    const F half_inverse = F(Lane<F>(0.5)) * reciprocal(select(upper, rest, eps));
    const F distance = minus(logarithm(f, root.greater * half_inverse) * inverse_beta);
    const F zeta = select(upper, F(1) - distance, distance) + bit.zero();

    const F x = (root.nearest_s() + absolute(b)) * half_inverse;
    const F own = select(upper, p, q), other = select(upper, q, p);
    const F ratio = quotient(e + x, F(1) + x), density = fma(own * ratio, ratio, other * e);
    const F r = inverse_beta * reciprocal(density);
    const F dbeta = fma(own * distance * ratio, ratio, other * (distance - F(1)) * e) * r;
    return {zeta, p * q * decay.complement * ratio * r, select(upper, dbeta, minus(dbeta)),
            select((least_noise > bit.eps) | (least_noise > bit.rest), F(0),
                   (e + x) * (F(1) + quotient(e, x)) * r)};
  }
  DVAE_INLINE LogSlice<F> component(const Math& f, F distance) const {
    const F x = absolute(beta * distance), t = fast_exp(max(F(-87), minus(x)));
    const F tanh = quotient(F(1) - t, F(1) + t);  // of half of x
    const F signed_tanh = select(F(0) > distance, minus(tanh), tanh);
    return {logarithm(f, beta) - x - F(2) * logarithm(f, F(1) + t), minus(beta * signed_tanh),
            inverse_beta - distance * signed_tanh};
  }
  DVAE_INLINE LogComponents<F> components(const Math& f, F zeta) const {
    return {component(f, zeta), component(f, zeta - F(1))};
  }
};

// DVAE#: r(zeta | 0) = zeta^(1/beta - 1) / beta, r(zeta | 1) its mirror image. One uniform draws the component and zeta
// in it; the gradient is that of the mixture's distribution function.
template <class F, class Math = Functions<F>>
struct PowerMixture : MixtureFamily<F, Math, PowerMixture<F, Math>> {
  static constexpr const char* name = "power_mixture";
  static constexpr bool unit_interval = true, noise_has_gradient = false;
  static constexpr double largest_fast_exponent = 24;
  F beta, inverse_beta;

  DVAE_INLINE PowerMixture(const Math&, F beta) : beta(beta), inverse_beta(quotient(F(1), beta)) {}

  DVAE_INLINE Smoothed<F> transform(const Math& f, const NoisyBit<F>& bit) const {
    const auto above = bit.u > F(0);
    const F own = select(above, bit.p, bit.q), other = select(above, bit.q, bit.p);
    const F far = min(F(1), select(above, bit.rest * bit.inverse_p, bit.eps * bit.inverse_q));
    const F near = min(F(1), select(above, bit.u, minus(bit.u * bit.p) * bit.inverse_q));
    const F t = power_of(f, far, near, beta);
    const F zeta = select(above, F(1) - t, t) + bit.zero();

    const F log = logarithm(f, far, near), t1 = one_minus_exp(minus(beta * log));
    const F log_t1 = logarithm(f, t1, t), back = power_of(f, t1, t, inverse_beta);
    const F density = fma(own * far, t1, other * back * t);  // times t (1 - t) / beta
    const F r = select(density == F(0), F(0), quotient(t * t1, max(F(kLeast<F>), density)));
    const F dbeta = (own * far * log - other * back * log_t1 * inverse_beta) * r;
    return {zeta, bit.p * bit.q * beta * (far - (F(1) - back)) * r, select(above, minus(dbeta), dbeta), F(0)};
  }
  DVAE_INLINE LogSlice<F> component(const Math& f, F far) const {
    const F log = logarithm(f, far), exponent = inverse_beta - F(1);
    return {fma(exponent, log, minus(logarithm(f, beta))), quotient(exponent, far),
            minus(fma(log, inverse_beta, F(1)) * inverse_beta)};
  }
  DVAE_INLINE LogComponents<F> components(const Math& f, F zeta) const {
    const LogSlice<F> zero = component(f, zeta), one = component(f, F(1) - zeta);
    return {zero, {one.log, minus(one.dzeta), one.dbeta}};
  }
};

template <template <class, class> class... Kinds>
struct KindList {};
using SmoothingKinds = KindList<
    SpikeExponential, SpikePower, SpikeRoot, SpikeRational, Power, Root, ExponentialMixture, LogisticMixture,
    PowerMixture>;

// Calls run(a null pointer to the kind of that name); false where there is none.
template <class F, class Math, template <class, class> class... Kinds, class Run>
bool with_kind(KindList<Kinds...>, std::string_view name, const Run& run) {
  return ((name == Kinds<F, Math>::name && (run(static_cast<Kinds<F, Math>*>(nullptr)), true)) || ...);
}
template <class F, class Math = Functions<F>, class Run>
bool with_kind(std::string_view name, const Run& run) {
  return with_kind<F, Math>(SmoothingKinds(), name, run);
}

template <class F>
SmoothingKind find_kind(std::string_view name) {
  SmoothingKind result{name};
  result.exists = with_kind<F>(name, [&](auto* kind) {
    result.noise_has_gradient = std::remove_pointer_t<decltype(kind)>::noise_has_gradient;
  });
  return result;
}
