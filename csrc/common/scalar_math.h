// The vocabulary of formulas that are written once for scalars and for SIMD vectors, here for float and double on host
// and device; simd_math.h has the same words for the vectors of a target.
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

template <class T>
DVAE_HD inline T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}
DVAE_HD inline bool any(bool condition) { return condition; }

// b where either is NaN
DVAE_HD inline float min(float a, float b) { return a < b ? a : b; }
DVAE_HD inline double min(double a, double b) { return a < b ? a : b; }
DVAE_HD inline float max(float a, float b) { return a > b ? a : b; }
DVAE_HD inline double max(double a, double b) { return a > b ? a : b; }

DVAE_HD inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
DVAE_HD inline double fma(double a, double b, double c) { return ::fma(a, b, c); }
// 1 / x where neither is subnormal
DVAE_HD inline float reciprocal(float x) { return normal_reciprocal(x); }
DVAE_HD inline double reciprocal(double x) { return normal_reciprocal(x); }
DVAE_HD inline float square_root(float x) { return sqrtf(x); }
DVAE_HD inline double square_root(double x) { return sqrt(x); }

DVAE_HD inline float exp2(float x) { return fast_exp2(x); }
DVAE_HD inline double exp2(double x) { return fast_exp2(x); }

// e^x; in float for x in [-87.3, 88], with a relative error that does not grow with x: what the product x log2(e) loses
// is applied to the power.
DVAE_HD inline float fast_exp(float x) {
#ifdef __CUDA_ARCH__
  const float high = x * kLog2e<float>;
  const float lost = fmaf(x, 1.92596303e-8f, fmaf(x, kLog2e<float>, -high));
  const float y = fast_exp2(high);
  return fmaf(y, lost * kLn2<float>, y);
#else
  return std::exp(x);
#endif
}
DVAE_HD inline double fast_exp(double x) { return exp(x); }

// 1 - e^-x for x >= 0, with full relative accuracy
DVAE_HD inline float one_minus_exp(float x) { return -expm1f(-x); }
DVAE_HD inline double one_minus_exp(double x) { return -expm1(-x); }

// What takes its constants from registers on some targets.
template <class F>
struct Functions;
template <>
struct Functions<float> {
  DVAE_HD float log2(float x) const { return fast_log2(x); }  // of positive normal x
  DVAE_HD float log1p(float x) const { return log1pf(x); }
};
template <>
struct Functions<double> {
  DVAE_HD double log2(double x) const { return fast_log2(x); }
  DVAE_HD double log1p(double x) const { return ::log1p(x); }
};

}  // namespace dvae
