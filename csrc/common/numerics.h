// Elementary functions and constants, for host and device: approximate instructions on the device.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/host_device.h"

namespace dvae {

// What a host computes for an approximate instruction of the device. With DVAE_DEVICE_ERRORS, for tests, it is off by
// up to the error that CUDA states, in either direction by the argument. Powers of two are exact.
inline float approximate(float exact, [[maybe_unused]] float x, [[maybe_unused]] float error) {
#ifdef DVAE_DEVICE_ERRORS
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7fffff) == 0 || !(std::fabs(exact) >= FLT_MIN && std::fabs(exact) <= FLT_MAX)) return exact;
  return exact + error * (static_cast<float>((bits * 0x9E3779B9u) >> 8) * 0x1p-23f - 1);
#else
  return exact;
#endif
}

inline float ulp(float y) { return std::nextafter(y, FLT_MAX) - y; }

// log2 and exp2 to about 2 ulp. The device's instructions flush subnormal arguments and results to zero.
DVAE_HD inline float fast_log2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::log2(x);
  return approximate(y, x, 0x1p-22f + ulp(std::fabs(y)) / 2);
#endif
}
DVAE_HD inline double fast_log2(double x) { return log2(x); }

DVAE_HD inline float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::exp2(x);
  return approximate(y, x, 2 * ulp(y));
#endif
}
DVAE_HD inline double fast_exp2(double x) { return exp2(x); }

// `upper` where the top bit of `bits` is set. Both sides are computed: on the device a branch around either costs a
// warp more than it saves.
DVAE_HD inline float select_by_top_bit(uint32_t bits, float upper, float lower) {
#ifdef __CUDA_ARCH__
  float chosen;
  asm("{ .reg .pred p; setp.lt.s32 p, %3, 0; selp.f32 %0, %1, %2, p; }"
      : "=f"(chosen)
      : "f"(upper), "f"(lower), "r"(bits));
  return chosen;
#else
  return bits >> 31 ? upper : lower;
#endif
}

template <typename T>
constexpr T kLn2 = T(0.693147180559945309417232121458);
template <typename T>
constexpr T kLog2e = T(1.44269504088896340735992468100);

// 1/x to about 1 ulp, subnormal x and results included.
DVAE_HD inline float fast_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = 1.f / x;
  return approximate(y, x, ulp(y));
#endif
}
DVAE_HD inline double fast_reciprocal(double x) { return 1. / x; }

// The same where neither x nor 1/x is subnormal: one instruction.
DVAE_HD inline float normal_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = 1.f / x;
  return approximate(y, x, ulp(y));
#endif
}
DVAE_HD inline double normal_reciprocal(double x) { return 1. / x; }

DVAE_HD inline float fast_square_root(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::sqrt(x);
  return approximate(y, x, ulp(y));
#endif
}

// A product that is never fused into an addition, so that a * b + c * d is the same when its terms change places.
DVAE_HD inline float unfused_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
DVAE_HD inline double unfused_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

template <class T>
constexpr T kLargest = sizeof(T) == 4 ? T(FLT_MAX) : T(DBL_MAX);
template <class T>
constexpr T kLeastNormal = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
template <class T>
constexpr T kEpsilon = sizeof(T) == 4 ? T(FLT_EPSILON) : T(DBL_EPSILON);
template <class T>
constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

}  // namespace dvae
