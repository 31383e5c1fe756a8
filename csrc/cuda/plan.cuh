// What CUDA row kernels share: how rows are given to threads, typed access to them, reductions, and the launch.
//
// The `lanes` threads of a row walk over its chunks of 4 or 8 columns, and keep the leading columns in shared memory,
// so that a row that fits is read once. Rows whose columns lie next to each other use neighbouring threads for
// neighbouring chunks; other layouts are interleaved: neighbouring threads take neighbouring rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "common/indices.h"
#include "common/rows.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <string>
#define DVAE_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "cuda/host_shim.h"
#define DVAE_SHARED_MEMORY(name) unsigned char* const name = dvae::shim::Block::current().shared()
#endif

namespace dvae {

constexpr int kWarp = 32, kMaxThreads = 512;
// Threads of a row at most; half for double, whose values take two registers.
template <class Acc>
constexpr int kRowThreads = sizeof(Acc) == 4 ? kMaxThreads : kMaxThreads / 2;
constexpr size_t kInterleavedShared = 64 << 10;  // for three blocks on a multiprocessor

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t power_of_two_above(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}
inline int log2_of_power(int64_t power) {
  int result = 0;
  while (power >>= 1) ++result;
  return result;
}

struct RowPlan {
  int64_t rows, columns;
  uint32_t inner;  // row r is (r / inner, r % inner) in the tensors' strides
  uint32_t chunks;
  uint32_t cached;  // leading columns kept in shared memory: whole chunks for each of the lanes
  int lanes_log2, rows_log2;  // of a block
  bool interleaved;
  // the launch
  unsigned threads, grid_x, grid_y;
  size_t shared_bytes;
};

// arrays: values of type T cached per column. shared_limit: bytes that a block may use. state_values: how many of T the
// states of two reductions take.
template <class T>
RowPlan plan_rows(
    int64_t rows, int64_t inner, int64_t columns, int chunk, bool interleaved, int arrays, size_t shared_limit,
    int state_values = 4) {
  if (columns >= kNoColumn) throw std::length_error("rows of 2^32 - 1 elements or more are not supported on CUDA");
  RowPlan plan{};
  plan.rows = rows;
  plan.inner = static_cast<uint32_t>(inner);
  plan.columns = columns;
  plan.chunks = static_cast<uint32_t>(divide_up(columns, chunk));
  plan.interleaved = interleaved;
  const int64_t column_bytes = arrays * sizeof(T), state_bytes = state_values * sizeof(T);
  int64_t lanes, block_rows;
  if (interleaved) {
    shared_limit = std::min(shared_limit, arrays > 2 ? 2 * kInterleavedShared : kInterleavedShared);
    const auto budget = static_cast<int64_t>(shared_limit);
    block_rows = std::min<int64_t>(kWarp, power_of_two_above(rows));
    const int64_t row_bytes = columns * column_bytes + 256 / kWarp * state_bytes;
    while (block_rows > 8 && block_rows * row_bytes > budget) block_rows /= 2;
    lanes = std::min(256 / block_rows, power_of_two_above(plan.chunks));
    lanes = std::max(lanes, kWarp / block_rows);
  } else if (columns <= 1024) {
    lanes = std::min<int64_t>(kWarp, power_of_two_above(plan.chunks));
    block_rows = 128 / lanes;
  } else {
    lanes = std::clamp<int64_t>(power_of_two_above(divide_up(columns, 32)), 128, kRowThreads<T>);
    block_rows = 1;
  }
  plan.lanes_log2 = log2_of_power(lanes);
  plan.rows_log2 = log2_of_power(block_rows);
  plan.threads = static_cast<unsigned>(lanes * block_rows);
  // where a row spans warps: see reduce_row
  const int64_t states = interleaved || lanes > kWarp ? plan.threads / kWarp * block_rows * state_bytes : 0;
  if (column_bytes) {
    const int64_t step = chunk * lanes;
    const int64_t fits = (static_cast<int64_t>(shared_limit) - states) / (block_rows * column_bytes) / step * step;
    plan.cached = static_cast<uint32_t>(std::min(divide_up(columns, step) * step, fits));
  }
  plan.shared_bytes = static_cast<size_t>(states + plan.cached * block_rows * column_bytes);
  const int64_t blocks = divide_up(rows, block_rows);
  plan.grid_x = static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 30));
  plan.grid_y = static_cast<unsigned>(divide_up(blocks, plan.grid_x));
  return plan;
}

// The row of this thread, and its place among the threads of that row.
struct RowPlace {
  uint32_t lane, lanes;
  uint32_t slot;  // of the rows of the block
  int64_t row;
  int64_t outer_index, inner_index;
  // none where the block reaches beyond the last row
  uint32_t chunks;
  int64_t columns;

  __device__ explicit RowPlace(const RowPlan& plan) {
    const uint32_t thread = threadIdx.x, block_rows = 1u << plan.rows_log2;
    lanes = 1u << plan.lanes_log2;
    slot = plan.interleaved ? thread & (block_rows - 1) : thread >> plan.lanes_log2;
    lane = plan.interleaved ? thread >> plan.rows_log2 : thread & (lanes - 1);
    row = (blockIdx.x + int64_t{blockIdx.y} * gridDim.x) * block_rows + slot;
    const bool exists = row < plan.rows;
    if (!exists) row = 0;
    outer_index = row;
    inner_index = 0;
    if (plan.inner > 1) {  // 32-bit: rows are numbered in 32 bits
      outer_index = static_cast<uint32_t>(row) / plan.inner;
      inner_index = static_cast<uint32_t>(row) % plan.inner;
    }
    chunks = exists ? plan.chunks : 0;
    columns = exists ? plan.columns : 0;
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

// Whether neighbouring rows of the output (the last tensor) lie closer than its columns.
template <int N>
bool interleaved(const RowLayout<N>& layout) {
  const RowStrides& strides = layout.strides[N - 1];
  return layout.rows() > 1 && strides.column > (layout.inner > 1 ? strides.inner : strides.outer);
}

// Columns per chunk where every tensor can be read and written in 16-byte vectors, else 0.
template <int N>
int vector_chunk(const RowLayout<N>& layout, const std::array<Buffer, std::size_t{N}>& tensors) {
  int64_t chunk = 4;
  for (int t = 0; t < N; ++t) {
    if (tensors[t].type == Storage::float64) return 0;
    chunk = std::max<int64_t>(chunk, 16 / size_of(tensors[t].type));
  }
  if (layout.columns % chunk || layout.columns > INT32_MAX) return 0;
  for (int t = 0; t < N; ++t) {
    const RowStrides& strides = layout.strides[t];
    const int64_t size = size_of(tensors[t].type);
    const bool aligned = reinterpret_cast<uintptr_t>(tensors[t].data) % 16 == 0 &&
                         (layout.outer == 1 || strides.outer * size % 16 == 0) &&
                         (layout.inner == 1 || strides.inner * size % 16 == 0);
    if (strides.column != 1 || !aligned) return 0;
  }
  return static_cast<int>(chunk);
}

}  // namespace dvae
