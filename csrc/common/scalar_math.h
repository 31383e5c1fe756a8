// The vocabulary of formulas that are written once for scalars and for SIMD vectors, here for float and double on host
// and device; simd/math.h has the same words for the vectors of a target.
#pragma once

#include "common/numerics.h"

namespace dvae {

// What a number, or a lane of a vector, is.
template <class F>
struct LaneOf {
  using type = typename F::Scalar;
};
template <>
struct LaneOf<float> {
  using type = float;
};
template <>
struct LaneOf<double> {
  using type = double;
};
template <class F>
using Lane = typename LaneOf<F>::type;

// Both values are computed: on the device a branch around either would split warps, and copy what follows.
DVAE_HD inline float select(bool condition, float yes, float no) {
#ifdef __CUDA_ARCH__
  float chosen;
  asm("{ .reg .pred p; setp.ne.u32 p, %3, 0; selp.f32 %0, %1, %2, p; }"
      : "=f"(chosen)
      : "f"(yes), "f"(no), "r"(static_cast<unsigned>(condition)));
  return chosen;
#else
  return condition ? yes : no;
#endif
}
DVAE_HD inline double select(bool condition, double yes, double no) { return condition ? yes : no; }
// NaN where either is
DVAE_HD inline float min(float a, float b) {
#ifdef __CUDA_ARCH__
  float lower;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(lower) : "f"(a), "f"(b));
  return lower;
#else
  return a < b || a != a ? a : b;
#endif
}
DVAE_HD inline float max(float a, float b) {
#ifdef __CUDA_ARCH__
  float upper;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(upper) : "f"(a), "f"(b));
  return upper;
#else
  return a > b || a != a ? a : b;
#endif
}
DVAE_HD inline double min(double a, double b) { return a < b || a != a ? a : b; }
DVAE_HD inline double max(double a, double b) { return a > b || a != a ? a : b; }

template <class T>
DVAE_HD inline T absolute(T x) {
  return max(x, 0 - x);
}

DVAE_HD inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
DVAE_HD inline double fma(double a, double b, double c) { return ::fma(a, b, c); }
// 1 / x where neither is subnormal
DVAE_HD inline float reciprocal(float x) { return normal_reciprocal(x); }
DVAE_HD inline double reciprocal(double x) { return normal_reciprocal(x); }
// a / b; on the device a division that rounds correctly is a routine
DVAE_HD inline float quotient(float a, float b) { return a * fast_reciprocal(b); }
DVAE_HD inline double quotient(double a, double b) { return a / b; }
DVAE_HD inline float square_root(float x) { return fast_square_root(x); }
DVAE_HD inline double square_root(double x) { return sqrt(x); }

DVAE_HD inline float exp2(float x) { return fast_exp2(x); }
DVAE_HD inline double exp2(double x) { return fast_exp2(x); }

// e^x; in float for x in [-87.3, 88], with a relative error of 8e-8: near thresholds it is magnified, and the device's
// instruction has 2.4e-7.
DVAE_HD inline float fast_exp(float x) {
  const float shifted = fmaf(x, kLog2e<float>, 12582912.f);  // the integer in the lowest bits
  const float n = shifted - 12582912.f;
  const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145751953125f, x));
  float p = 0x1.6a2318p-10f;
  p = fmaf(p, r, 0x1.123a8ep-7f);
  p = fmaf(p, r, 0x1.5558f6p-5f);
  p = fmaf(p, r, 0x1.555490p-3f);
  p = fmaf(p, r, 0x1.fffffcp-2f);
  p = fmaf(p, r, 1.f);
  p = fmaf(p, r, 1.f);
  return p * bit_cast<float>((bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
}
DVAE_HD inline double fast_exp(double x) { return exp(x); }

// 1 - e^-x for x >= 0, with full relative accuracy: its series below 1/2
DVAE_HD inline float one_minus_exp(float x) {
  float series = fmaf(x, -1.f / 8, 1.f);
  series = fmaf(x * (-1.f / 7), series, 1.f);
  series = fmaf(x * (-1.f / 6), series, 1.f);
  series = fmaf(x * (-1.f / 5), series, 1.f);
  series = fmaf(x * (-1.f / 4), series, 1.f);
  series = fmaf(x * (-1.f / 3), series, 1.f);
  series = fmaf(x * (-1.f / 2), series, 1.f);
  return select(x < 0.5f, x * series, 1 - fast_exp2(x * -kLog2e<float>));
}
DVAE_HD inline double one_minus_exp(double x) { return -expm1(-x); }

// What takes its constants from registers on some targets.
template <class F>
struct Functions;
template <>
struct Functions<float> {
  // whether the argument needs the slow, accurate path
  DVAE_HD bool needs_slow_path(bool condition) const { return condition; }
  // of positive normal x, with a relative error of 2e-7: the device's instruction has an absolute one near one
  DVAE_HD float log2(float x) const {
    const uint32_t exponent = (bit_cast<uint32_t>(x) - 0x3f2aaaabu) & 0xff800000u;  // of x over 2/3
    const float r = bit_cast<float>(bit_cast<uint32_t>(x) - exponent) - 1;          // in [-1/3, 1/3]
    float ratio = 0x1.9f4ebcp-3f;
    ratio = fmaf(ratio, r, -0x1.c71be6p-3f);
    ratio = fmaf(ratio, r, 0x1.9d48dep-3f);
    ratio = fmaf(ratio, r, -0x1.e4f056p-3f);
    ratio = fmaf(ratio, r, 0x1.27a3f2p-2f);
    ratio = fmaf(ratio, r, -0x1.7172d2p-2f);
    ratio = fmaf(ratio, r, 0x1.ec6ffep-2f);
    ratio = fmaf(ratio, r, -0x1.715456p-1f);
    ratio = fmaf(ratio, r, 0x1.715476p+0f);
    return fmaf(static_cast<float>(static_cast<int32_t>(exponent)), 0x1p-23f, ratio * r);
  }
  // natural, of x in (0, 1]; rest = 1 - x, whose relative accuracy counts where it is below 1/2
  DVAE_HD float log(float x, float rest) const { return kLn2<float> * log2(x, rest); }
  DVAE_HD float log2_for_power(float x, float rest, float) const { return log2(x, rest); }
  DVAE_HD float log1p(float x) const { return log(1 + x, -x); }  // of x in (-1, 0]

 private:
  DVAE_HD static float log2(float x, float rest) { return select(rest < 0.5f, log2_near_one(rest), fast_log2(x)); }
  // log2(1 - rest) for rest in [0, 1/2]: a minimax polynomial of relative error 2.3e-8
  DVAE_HD static float log2_near_one(float rest) {
    float ratio = -0x1.0a1f46p+1f;
    ratio = fmaf(ratio, rest, 0x1.392836p+1f);
    ratio = fmaf(ratio, rest, -0x1.d07ec0p+0f);
    ratio = fmaf(ratio, rest, 0x1.2cb130p-2f);
    ratio = fmaf(ratio, rest, -0x1.8e4de4p-2f);
    ratio = fmaf(ratio, rest, -0x1.66b362p-2f);
    ratio = fmaf(ratio, rest, -0x1.ecfb86p-2f);
    ratio = fmaf(ratio, rest, -0x1.71531cp-1f);
    ratio = fmaf(ratio, rest, -0x1.715476p+0f);
    return ratio * rest;
  }
};
template <>
struct Functions<double> {
  DVAE_HD bool needs_slow_path(bool condition) const { return condition; }
  DVAE_HD double log2(double x) const { return fast_log2(x); }
  DVAE_HD double log(double x, double rest) const { return rest < 0.5 ? ::log1p(-rest) : ::log(x); }
  DVAE_HD double log2_for_power(double x, double rest, double exponent) const {
    return exponent > 3 ? log(x, rest) * kLog2e<double> : fast_log2(x);
  }
  DVAE_HD double log1p(double x) const { return ::log1p(x); }
};

}  // namespace dvae
