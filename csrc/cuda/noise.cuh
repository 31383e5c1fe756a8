// The noise of a row, drawn where it is used.
#pragma once

#include "common/noise.h"
#include "cuda/plan.cuh"

namespace dvae {

// The noise of one row.
struct RowNoise {
  uint64_t seed;
  uint32_t offset, row;

  __device__ RowNoise(const NoiseArgument& noise, int64_t row)
      : seed(noise.key.data ? static_cast<uint64_t>(noise.key.data[0]) : 0),
        offset(noise.key.data ? static_cast<uint32_t>(noise.key.data[noise.key.stride]) : 0),
        row(static_cast<uint32_t>(row) + noise.row_offset) {}

  template <class Acc, int kChunk>
  __device__ void add_gumbel(uint32_t chunk, Acc (&x)[kChunk]) const {
#pragma unroll
    for (int q = 0; q < kChunk / 4; ++q) {
      const Philox4x32 words = row_words(seed, offset, row, chunk * (kChunk / 4) + q);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[q * 4 + i] += gumbel_from_bits<Acc>(words.word[i]);
    }
  }

  template <class Acc, int kChunk>
  __device__ void exponential(uint32_t chunk, uint32_t draw, Acc (&noise)[kChunk]) const {
#pragma unroll
    for (int q = 0; q < kChunk / 4; ++q) {
      const Philox4x32 words = row_words(seed, offset, row, chunk * (kChunk / 4) + q, draw);
#pragma unroll
      for (int i = 0; i < 4; ++i) noise[q * 4 + i] = exponential_from_bits<Acc>(words.word[i]);
    }
  }

  // Of one column.
  template <class Acc>
  __device__ Acc exponential_at(uint32_t column, uint32_t draw) const {
    const Philox4x32 words = row_words(seed, offset, row, column / 4, draw);
    const uint32_t even = column & 2 ? words.word[2] : words.word[0], odd = column & 2 ? words.word[3] : words.word[1];
    return exponential_from_bits<Acc>(column & 1 ? odd : even);
  }
};

}  // namespace dvae
