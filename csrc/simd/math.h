// Elementary functions over the vectors of a target.

// 2^x with relative error 1e-7 for x <= 127; exactly 0 far below the normal range, so that masked weights vanish.
inline F32 exp2(F32 x) {
  x = max(F32(-160.0f), x);  // NaN passes; -inf - (-inf) would make one
  const F32 n = round_nearest(x);
  const F32 r = x - n;
  F32 p = fma(F32(1.327647129e-3f), r, F32(9.671868762e-3f));
  p = fma(p, r, F32(5.550709142e-2f));
  p = fma(p, r, F32(2.402223664e-1f));
  p = fma(p, r, F32(6.931469852e-1f));
  p = fma(p, r, F32(1.0f));
  return scale(p, n);
}

// e^x for x in [-87, 88] with relative error 7e-8, which does not grow with x
inline F32 fast_exp(F32 x) {
  const F32 n = round_nearest(x * F32(kLog2e<float>));
  const F32 r = fma(x, F32(1.92596303e-8f), fma_exact(x, F32(kLog2e<float>), F32(0.0f) - n));
  F32 p = fma(F32(1.535336196e-4f), r, F32(1.339887502e-3f));
  p = fma(p, r, F32(9.618436918e-3f));
  p = fma(p, r, F32(5.550332367e-2f));
  p = fma(p, r, F32(2.402264774e-1f));
  p = fma(p, r, F32(6.931471825e-1f));
  p = fma(p, r, F32(1.0f));
  return scale(p, n);
}

// 1 - e^-x for x >= 0, with full relative accuracy
inline F32 one_minus_exp(F32 x) {
  F32 series(1.0f);
  for (int j = 8; j > 1; --j) series = fma(x * F32(-1.0f / j), series, F32(1.0f));
  return select(F32(0.5f) > x, x * series, F32(1.0f) - exp2(x * F32(-kLog2e<float>)));
}

template <class F>
F natural_exp(F x) {
  return exp2(x * F(kLog2e<typename F::Scalar>));
}

template <class F>
F quotient(F a, F b) {
  return a / b;
}

#if !DVAE_SIMD_AVX512
// Without a register table: one polynomial for log2(1 + r), r in [1/sqrt(2) - 1, sqrt(2) - 1].
struct Logarithm {
  // log2(x) of positive normal x
  F32 log2(F32 x) const {
    const F32 m = mantissa(x);
    const Mask upper = m > F32(1.41421356f);
    const F32 r = select(upper, fma(m, F32(0.5f), F32(-1.0f)), m - F32(1.0f));
    return log2_1p(r) + (exponent(x) + select(upper, F32(1.0f), F32(0.0f)));
  }

  // Exponential noise over ln 2: -log2(1 - u), u = (bits + 1/2) / 2^32, with full relative accuracy at both ends.
  F32 exponential(U32 bits) const {
    const F32 u = fma(to_float(bits), F32(0x1p-32f), F32(0x1p-33f));
    const F32 v = fma(to_float(complement(bits)), F32(0x1p-32f), F32(0x1p-33f));
    return F32(0.0f) - select(F32(0.25f) > u, log2_1p(F32(0.0f) - u), log2(v));
  }

 private:
  static F32 log2_1p(F32 r) {
    // log(1 + r) = r - r^2/2 + r^3 p(r), the coefficients of Cephes' logf, then one factor
    F32 p = fma(F32(7.0376836292e-2f), r, F32(-1.1514610310e-1f));
    p = fma(p, r, F32(1.1676998740e-1f));
    p = fma(p, r, F32(-1.2420140846e-1f));
    p = fma(p, r, F32(1.4249322787e-1f));
    p = fma(p, r, F32(-1.6668057665e-1f));
    p = fma(p, r, F32(2.0000714765e-1f));
    p = fma(p, r, F32(-2.4999993993e-1f));
    p = fma(p, r, F32(3.3333331174e-1f));
    p = fma(p, r, F32(-0.5f));
    return fma(p, r * r, r) * F32(1.44269504f);
  }
};
#endif

// Double precision goes one element at a time through libm, behind the same names.
struct F64 {
  using Scalar = double;
  static constexpr int lanes = 1;
  double v;
  F64() = default;
  F64(double x) : v(x) {}
  static F64 load(const double* p) { return *p; }
  void store(double* p) const { *p = v; }
  void stream(double* p) const { *p = v; }
};
struct BoolMask {
  bool v;
  bool any() const { return v; }
};
inline BoolMask operator|(BoolMask a, BoolMask b) { return {a.v || b.v}; }
inline F64 operator+(F64 a, F64 b) { return a.v + b.v; }
inline F64 operator-(F64 a, F64 b) { return a.v - b.v; }
inline F64 operator*(F64 a, F64 b) { return a.v * b.v; }
inline F64 operator/(F64 a, F64 b) { return a.v / b.v; }
inline F64 fma(F64 a, F64 b, F64 c) { return a.v * b.v + c.v; }
inline F64 fma_exact(F64 a, F64 b, F64 c) { return fma(a, b, c); }
inline F64 min(F64 a, F64 b) { return a.v < b.v ? a.v : b.v; }
inline F64 max(F64 a, F64 b) { return a.v > b.v ? a.v : b.v; }
inline BoolMask operator>(F64 a, F64 b) { return {a.v > b.v}; }
inline BoolMask operator==(F64 a, F64 b) { return {a.v == b.v}; }
inline int first_lane(BoolMask) { return 0; }
inline BoolMask either_nan(F64 a, F64 b) { return {a.v != a.v || b.v != b.v}; }
inline BoolMask is_nan(F64 a) { return {a.v != a.v}; }
inline F64 select(BoolMask m, F64 yes, F64 no) { return m.v ? yes : no; }
inline double reduce_max(F64 a) { return a.v; }
inline double reduce_add(F64 a) { return a.v; }
inline F64 reciprocal(F64 x) { return 1 / x.v; }
inline F64 exp2(F64 x) { return std::exp2(x.v); }
inline F64 fast_exp(F64 x) { return std::exp(x.v); }
inline F64 one_minus_exp(F64 x) { return -std::expm1(-x.v); }
inline F64 square_root(F64 x) { return std::sqrt(x.v); }
struct Logarithm64 {
  bool needs_slow_path(BoolMask m) const { return m.v; }
  F64 log2(F64 x) const { return std::log2(x.v); }
  F64 log1p(F64 x) const { return std::log1p(x.v); }
  F64 log(F64 x, F64 rest) const { return 0.5 > rest.v ? std::log1p(-rest.v) : std::log(x.v); }
  F64 log2_for_power(F64 x, F64 rest, F64 exponent) const {
    return exponent.v > 3 ? log(x, rest).v * kLog2e<double> : std::log2(x.v);
  }
  F64 exponential(const uint32_t* bits) const { return exponential_from_bits<double>(*bits) * kLog2e<double>; }
  F64 minus_log_bound(const uint32_t*) const { return 23; }  // of all noise
};

// What a kernel template needs beside the vector type.
template <class F>
struct Functions {
  Logarithm logarithm;

  // whether any lane needs the slow, accurate path
  bool needs_slow_path(Mask m) const { return m.any(); }
  F32 log2(F32 x) const { return logarithm.log2(x); }
  // log(1 + x) for x in (-1, 0] with its relative accuracy: what 1 + x rounds off is applied to the logarithm
  F32 log1p(F32 x) const {
    const F32 y = F32(1.0f) + x;
    const F32 log = fma(log2(y), F32(kLn2<float>), (x - (y - F32(1.0f))) * reciprocal(y));
    return select(y == F32(1.0f), x, log);
  }
  // natural, of normal x in (0, 1]; rest = 1 - x, whose relative accuracy counts where it is below 1/2
  F32 log(F32 x, F32 rest) const {
    return select(F32(0.5f) > rest, log1p(F32(0.0f) - rest), log2(x) * F32(kLn2<float>));
  }
  // log2 of such an x; rest is looked at only where the exponent would show the rounding of x
  F32 log2_for_power(F32 x, F32 rest, F32 exponent) const {
    const Mask large = exponent > F32(3.0f);
    if (!large.any()) return log2(x);
    return select(large, log(x, rest) * F32(kLog2e<float>), log2(x));
  }
  F32 exponential(const uint32_t* bits) const { return logarithm.exponential(U32::load(bits)); }

  // An upper bound of -ln(E'), E' = exponential(bits), in a few instructions: E >= u >= bits / 2^32, and the bit
  // pattern of a float is below its logarithm. Tight where noise is large; the last term covers all rounding.
  F32 minus_log_bound(const uint32_t* bits) const {
    constexpr float ln_ln2 = -0.36651292f, slack = 1e-4f;
    const F32 pattern = bit_pattern(to_float(U32::load(bits)));
    return fma(pattern, F32(-kLn2<float> * 0x1p-23f), F32((127 + 32) * kLn2<float> + ln_ln2 + slack));
  }
};
template <>
struct Functions<F64> : Logarithm64 {};

// For arguments known not to need the slow path.
struct FastFunctions : Functions<F32> {
  bool needs_slow_path(Mask) const { return false; }
  F32 log2_for_power(F32 x, F32, F32) const { return log2(x); }
};
