// The arguments that CUDA row kernels share, and the host's side of a call; nothing here needs torch.
#pragma once

#include <utility>

#include "cuda/access.cuh"
#include "common/temperature.h"

namespace dvae {

// Blocks of the largest size that fit on a multiprocessor: two leave 64 registers a thread, one leaves 128.
template <class Acc>
constexpr int kMinBlocks = sizeof(Acc) == 4 ? 2 : 1;

// The temperature is a scalar in device memory, or `value` without one.
template <class Acc>
struct TauArgument {
  const Acc* pointer;
  Acc value;

  __device__ Acc get() const { return pointer ? *pointer : value; }
  __device__ Temperature<Acc> temperature() const { return Temperature<Acc>(get()); }
};

struct NoiseArgument {
  const int64_t* key;  // (seed, offset); null for no noise
  int64_t key_stride;
  uint32_t row_offset;
};

// The noise of one row.
struct RowNoise {
  uint64_t seed;
  uint32_t offset, row;

  __device__ RowNoise(const NoiseArgument& noise, int64_t row)
      : seed(noise.key ? static_cast<uint64_t>(noise.key[0]) : 0),
        offset(noise.key ? static_cast<uint32_t>(noise.key[noise.key_stride]) : 0),
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

// The host's side of a call. Rows and categories are not empty.
struct RowCall {
  NoiseArgument noise{};
  const void* tau = nullptr;  // in the compute type
  double tau_value = 0;
  Stream stream{};

  template <class Acc>
  TauArgument<Acc> tau_argument() const {
    return {static_cast<const Acc*>(tau), static_cast<Acc>(tau_value)};
  }

  // chunk as from vector_chunk; arrays and state_values as for plan_rows
  template <class Acc, int N>
  RowPlan plan(const RowLayout<N>& layout, int chunk, int arrays, int state_values = 4) const {
    const bool interleave = chunk == 0 && interleaved(layout);
    return plan_rows<Acc>(
        layout.rows(), layout.inner, layout.categories, chunk ? chunk : 4, interleave, arrays, shared_limit(),
        state_values);
  }
};

// A single outer index leaves the inner one to number the rows: no division, and no inner size of 2^32.
template <int N>
RowLayout<N> simplified(RowLayout<N> layout) {
  if (layout.outer == 1) {
    std::swap(layout.outer, layout.inner);
    for (RowStrides& strides : layout.strides) std::swap(strides.outer, strides.inner);
  }
  return layout;
}

}  // namespace dvae
