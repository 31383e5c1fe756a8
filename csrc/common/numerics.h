// Noise from integers, and the half-precision formats, for host and device without torch.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/philox.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

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

// Standard exponential noise E = -log(1 - v), v = (bits + 1/2) / 2^32, with full relative accuracy at both ends.
template <typename T>
DVAE_HD inline T exponential_from_bits(uint32_t bits);

// Below v = 1/2 a minimax polynomial for -log(1 - v) / v (relative error 2e-8), above it the logarithm of 1 - v, formed
// from the complemented integer. The reference changes over at 1/4; at 1/2, |log2(1 - v)| >= 1 hides the absolute error
// of the device's log2.
template <>
DVAE_HD inline float exponential_from_bits<float>(uint32_t bits) {
  // x is the smaller of v and 1 - v: one conversion serves both
  const uint32_t smaller = bits < ~bits ? bits : ~bits;
  const float x = fmaf(static_cast<float>(smaller), 0x1p-32f, 0x1p-33f);
  float ratio = 0x1.70ec6ep+0f;
  ratio = fmaf(ratio, x, -0x1.b220b4p+0f);
  ratio = fmaf(ratio, x, 0x1.41f69ep+0f);
  ratio = fmaf(ratio, x, -0x1.a0d8f2p-3f);
  ratio = fmaf(ratio, x, 0x1.14155cp-2f);
  ratio = fmaf(ratio, x, 0x1.f143cap-3f);
  ratio = fmaf(ratio, x, 0x1.55b59ep-2f);
  ratio = fmaf(ratio, x, 0x1.fffe2p-2f);
  ratio = fmaf(ratio, x, 1.f);
  return select_by_top_bit(bits, -kLn2<float> * fast_log2(x), ratio * x);
}

template <>
DVAE_HD inline double exponential_from_bits<double>(uint32_t bits) {
  return -log1p(-(bits + 0.5) * 0x1p-32);
}

// Standard Gumbel noise G = -log E, always finite, in [-3.14, 22.88].
template <typename T>
DVAE_HD inline T gumbel_from_bits(uint32_t bits) {
  return -kLn2<T> * fast_log2(exponential_from_bits<T>(bits));
}
template <>
DVAE_HD inline double gumbel_from_bits<double>(uint32_t bits) {
  return -log(exponential_from_bits<double>(bits));
}

// Standard logistic noise L = log(u / (1 - u)), u = (bits + 1/2) / 2^32, always finite, in [-22.88, 22.88].
template <typename T>
DVAE_HD inline T logistic_from_bits(uint32_t bits);
template <>
DVAE_HD inline float logistic_from_bits<float>(uint32_t bits) {
  const float u = fmaf(static_cast<float>(bits), 0x1p-32f, 0x1p-33f);
  const float v = fmaf(static_cast<float>(~bits), 0x1p-32f, 0x1p-33f);
  return kLn2<float> * (fast_log2(u) - fast_log2(v));
}
template <>
DVAE_HD inline double logistic_from_bits<double>(uint32_t bits) {
  return exponential_from_bits<double>(bits) - exponential_from_bits<double>(~bits);
}

// Storage formats. float and double store themselves.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// What a storage type is computed in.
template <typename Storage>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

template <typename To, typename From>
DVAE_HD inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

DVAE_HD inline float load_as_compute(float x) { return x; }
DVAE_HD inline double load_as_compute(double x) { return x; }
DVAE_HD inline float load_as_compute(BFloat16 x) { return bit_cast<float>(uint32_t{x.bits} << 16); }
DVAE_HD inline float load_as_compute(Half x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest < 0x0400u) return bit_cast<float>(sign | bit_cast<uint32_t>(rest * 0x1p-24f));
  if (rest >= 0x7c00u) return bit_cast<float>(sign | 0x7f800000u | (rest << 13));
  return bit_cast<float>(sign | ((rest << 13) + (112u << 23)));
#endif
}

// Rounds to nearest even; NaN stays NaN.
template <typename Storage, typename T>
DVAE_HD inline Storage store_from_compute(T x) {
  return static_cast<Storage>(x);
}
template <>
DVAE_HD inline BFloat16 store_from_compute<BFloat16, float>(float x) {
#ifdef __CUDA_ARCH__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <>
DVAE_HD inline Half store_from_compute<Half, float>(float x) {
#ifdef __CUDA_ARCH__
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t sign = (bit_cast<uint32_t>(x) >> 16) & 0x8000u;
  uint32_t rest = bit_cast<uint32_t>(x) & 0x7fffffffu;
  if (rest > 0x7f800000u) {
    rest = 0x7e00u;
  } else if (rest >= 0x477ff000u) {  // 65520 and above round to infinity
    rest = 0x7c00u;
  } else if (rest < 0x38800000u) {  // subnormal: adding 1/2 aligns the last bit kept, and rounds
    rest = bit_cast<uint32_t>(bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
  } else {
    rest = (rest + 0xfffu + ((rest >> 13) & 1u) - (112u << 23)) >> 13;
  }
  return {static_cast<uint16_t>(sign | rest)};
#endif
}

}  // namespace dvae
