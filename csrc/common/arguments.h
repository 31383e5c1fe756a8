// Arguments that the kernels of several ops share, on every device; nothing here needs torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include "common/noise.h"

namespace dvae {

// The key of the noise, read where it lies: two words in the memory of the device. Without a key there is no noise.
struct NoiseArgument {
  const int64_t* key = nullptr;  // (seed, offset)
  int64_t key_stride = 1;
  uint32_t row_offset = 0;

  // In the memory of the host.
  NoiseKey host_key() const { return {static_cast<uint64_t>(key[0]), static_cast<uint32_t>(key[key_stride])}; }
  std::optional<NoiseKey> optional_host_key() const { return key ? std::optional(host_key()) : std::nullopt; }
};

// The temperature: one number in the memory of the device, in the compute type, or `value` where `data` is null.
struct Tau {
  const void* data = nullptr;
  double value = 0;

  // Of a value that the host knows.
  bool zero() const { return value == 0; }
  bool valid() const { return value >= 0 && value < std::numeric_limits<double>::infinity(); }
  // 1 / tau, finite in the compute type: times an exponent of zero it must stay zero.
  template <class Scalar>
  double inverse() const {
    return std::min(1 / value, double{std::numeric_limits<Scalar>::max()});
  }
};

}  // namespace dvae
