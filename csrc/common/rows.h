// A row operation's view of its tensors: [outer, columns, inner] with strides, found without copying; and its tiles.
#pragma once

#include <array>
#include <cstdint>

#include "common/buffers.h"
#include "common/threads.h"

namespace dvae {

struct RowStrides {
  int64_t outer = 0, column = 0, inner = 0;
};

// Row r is (outer_index, inner_index) = (r / inner, r % inner): the logical order in which noise is numbered.
template <int N>
struct RowLayout {
  int64_t outer = 1, columns = 1, inner = 1;
  std::array<RowStrides, N> strides;

  int64_t rows() const { return outer * inner; }
  int64_t offset(int tensor, int64_t row) const {
    return row / inner * strides[tensor].outer + row % inner * strides[tensor].inner;
  }
};

// The rows of N tensors of equal sizes.
template <int N>
struct Rows {
  RowLayout<N> layout;
  std::array<Buffer, N> tensors;
};

// Collapses the dimensions other than `dim` of N tensors of equal sizes into at most two groups, merging neighbours
// that every tensor lays out like one dimension. False where three groups or more remain: then the caller copies.
template <int N>
bool coalesce_rows(
    int ndim, const int64_t* sizes, int dim, const std::array<const int64_t*, N>& strides, RowLayout<N>* layout) {
  struct Group {
    int64_t size = 1;
    std::array<int64_t, N> strides{};
  };
  std::array<Group, 2> groups;  // the innermost first
  int count = 0;
  for (int d = ndim - 1; d >= 0; --d) {
    if (d == dim || sizes[d] == 1) continue;
    bool merges = count > 0;
    for (int t = 0; merges && t < N; ++t) {
      merges = strides[t][d] == groups[count - 1].size * groups[count - 1].strides[t];
    }
    if (!merges) {
      if (count == 2) return false;
      for (int t = 0; t < N; ++t) groups[count].strides[t] = strides[t][d];
      ++count;
    }
    groups[count - 1].size *= sizes[d];
  }
  layout->columns = sizes[dim];
  // A single group is the outer one where columns lie next to each other, else the inner one.
  const bool single_is_outer = count < 2 && (sizes[dim] == 1 || strides[0][dim] == 1);
  const Group none;
  const Group& inner = single_is_outer ? none : groups[0];
  const Group& outer = single_is_outer ? groups[0] : count == 2 ? groups[1] : none;
  layout->outer = outer.size;
  layout->inner = inner.size;
  for (int t = 0; t < N; ++t) {
    // the stride of a dimension of size one is arbitrary, and must not hide that rows are contiguous
    const int64_t column = sizes[dim] == 1 ? 1 : strides[t][dim];
    layout->strides[t] = {outer.strides[t], column, inner.strides[t]};
  }
  return true;
}

// The CPU kernels work on a row in chunks of kRowChunk columns, and share it out to threads in ranges of kRowRange.
constexpr int kRowChunk = 1024;
constexpr int64_t kRowRange = 16 * kRowChunk;

// How a CPU kernel takes the rows of a call: along the row (tile_rows rows that differ in the inner index only, one
// after the other), or interleaved (consecutive rows side by side, one a lane of the vectors).
struct RowTiles {
  int64_t outer, columns, inner;
  int tile_rows;
  bool interleaved;
  int64_t ranges;            // that a kernel can split a row into
  ParallelFor parallel_for;  // for kernels that share out the ranges of a row
  bool doubles;              // the compute type is float64
  bool stream;               // the last tensor is too large to stay in the caches: it is written past them

  int64_t per_outer() const { return (inner + tile_rows - 1) / tile_rows; }
  int64_t count() const { return interleaved ? (outer * inner + tile_rows - 1) / tile_rows : outer * per_outer(); }
};

}  // namespace dvae
