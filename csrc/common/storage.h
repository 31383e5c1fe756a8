// The formats that tensors are stored in, for host and device without torch. Kernels name no format: they visit them.
#pragma once

#include <cstdint>

#include "common/host_device.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace dvae {

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

enum class Storage : uint8_t { float32, float64, half, bfloat16 };  // in the order of dvae_kernels/_dtypes.py

template <class T>
inline constexpr Storage storage_of = Storage::float32;
template <>
inline constexpr Storage storage_of<double> = Storage::float64;
template <>
inline constexpr Storage storage_of<BFloat16> = Storage::bfloat16;
template <>
inline constexpr Storage storage_of<Half> = Storage::half;

// Bytes of an element; Scalar is the type that it is computed in.
template <class Scalar>
DVAE_HD int size_of(Storage type) {
  return sizeof(Scalar) == sizeof(double) ? 8 : type == Storage::float32 ? 4 : 2;
}
inline int size_of(Storage type) { return type == Storage::float64 ? 8 : size_of<float>(type); }

// Calls run(T()) with a storage type of 16 bits.
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class Run>
DVAE_HD void visit_half(Storage type, const Run& run) {
  type == Storage::bfloat16 ? run(BFloat16()) : run(Half());
}

// Calls run(T()) with the storage type; Scalar is the type that its elements are computed in.
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class Scalar, class Run>
DVAE_HD void visit(Storage type, const Run& run) {
  if constexpr (sizeof(Scalar) == sizeof(double)) {
    run(double());
  } else if (type == Storage::float32) {
    run(float());
  } else {
    visit_half(type, run);
  }
}
template <class Run>
void visit(Storage type, const Run& run) {
  type == Storage::float64 ? visit<double>(type, run) : visit<float>(type, run);
}

}  // namespace dvae
