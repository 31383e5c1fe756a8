// Noise from integers, for host and device without torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/numerics.h"
#include "common/philox.h"

namespace dvae {

// The key of a call: the seed, and the offset of the call in the seed's stream.
struct NoiseKey {
  uint64_t key;
  uint32_t offset;
};

// Where the two words of a key lie, for kernels that can read them there; null without noise.
struct KeyWords {
  const int64_t* data = nullptr;
  int64_t stride = 1;

  DVAE_HD NoiseKey read() const {
    return data ? NoiseKey{static_cast<uint64_t>(data[0]), static_cast<uint32_t>(data[stride])} : NoiseKey{};
  }
};

// The noise of a row op; none without a key. Rows are numbered from row_offset on.
struct NoiseArgument {
  KeyWords key;
  uint32_t row_offset = 0;
};

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

}  // namespace dvae
