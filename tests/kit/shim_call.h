// What the shims share: a call as ctypes passes it. Pointers and strides are the caller's. Functions that take a call
// return int, as ctypes expects.
#pragma once

#include <array>
#include <cstdint>

#include "cuda/arguments.cuh"
#include "common/elements.h"

constexpr int kMaxShimTensors = 5;

struct ShimCall {
  int ndim, dim;
  const int64_t* sizes;
  const int64_t* strides[kMaxShimTensors];
  void* data[kMaxShimTensors];
  int storage[kMaxShimTensors];
  const int64_t* key;
  uint32_t row_offset;
  const void* tau;
  double tau_value;
  void* row_parts;
  int64_t shared_limit;

  dvae::NoiseArgument noise() const { return {{key, 1}, row_offset}; }
  dvae::ScalarArgument scalar() const { return {tau, tau_value}; }

  // Calls run(rows) with the first N tensors. False where the rows do not coalesce; the host code of the extension then
  // copies.
  template <int N, class Run>
  bool with_rows(const Run& run) const {
    dvae::shim::shared_limit = static_cast<size_t>(shared_limit);
    dvae::Rows<N> rows;
    std::array<const int64_t*, N> all;
    for (int t = 0; t < N; ++t) {
      all[t] = strides[t];
      rows.tensors[t] = {data[t], static_cast<dvae::Storage>(storage[t])};
    }
    if (!dvae::coalesce_rows<N>(ndim, sizes, dim, all, &rows.layout)) return false;
    run(rows);
    return true;
  }
};

// Of elementwise kernels, on contiguous tensors.
struct ElementShimCall {
  int64_t count, index_offset;
  void* data[kMaxShimTensors];
  int storage[kMaxShimTensors];
  const int64_t* key;
  const void* tau;
  double tau_value;
  void* block_sums;

  dvae::KeyWords key_words() const { return {key, 1}; }
  dvae::ScalarArgument scalar() const { return {tau, tau_value}; }
  dvae::ElementBlocks blocks() const { return {count, index_offset}; }
  dvae::Buffer tensor(int t) const { return {data[t], static_cast<dvae::Storage>(storage[t])}; }
};
