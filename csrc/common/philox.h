// Philox4x32-10 (Salmon et al., SC 2011), for host and device: the integers of dvae_kernels/_rng.py.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dvae {

struct Philox4x32 {
  uint32_t word[4];
};

// a * b in 64 bits. Written out for the device, whose compiler otherwise adds the upper half of a widened constant.
DVAE_HD inline uint64_t wide_product(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return uint64_t{a} * b;
#endif
}

// The four words of counter (c0, c1, c2, c3) under a 64-bit key.
DVAE_HD inline Philox4x32 philox4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = wide_product(c0, 0xD2511F53), p1 = wide_product(c2, 0xCD9E8D57);
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// The words of columns 4 * group .. 4 * group + 3 of a row operation (row counted with its offset).
DVAE_HD inline Philox4x32 row_words(
    uint64_t key, uint32_t offset, uint32_t row, uint32_t group, uint32_t draw = 0) {
  return philox4x32(key, group, row, offset, draw);
}

}  // namespace dvae
