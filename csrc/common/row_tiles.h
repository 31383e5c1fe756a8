// How rows are given to the CPU kernels, the same for every target.
#pragma once

#include "common/buffers.h"
#include "common/rows.h"

namespace dvae {

// A row is worked on in chunks of kRowChunk columns, and shared out to threads in ranges of kRowRange.
constexpr int kRowChunk = 1024;
constexpr int64_t kRowRange = 16 * kRowChunk;

// The index of a row that has no category to choose: a row of only -inf, one with NaN or +inf.
constexpr int64_t kNone = -1, kNan = -2;

struct NoiseKey {
  uint64_t key;
  uint32_t offset;
};

// Rows of a call are processed in tiles: along the row (tile_rows rows that differ in the inner index only, one after
// the other), or by columns (consecutive rows side by side, one a lane of the vectors).
struct RowTiles {
  int64_t outer, categories, inner;
  int tile_rows;
  bool columns;
  int64_t ranges;  // parts that a kernel can split a row into

  int64_t per_outer() const { return (inner + tile_rows - 1) / tile_rows; }
  int64_t count() const { return columns ? (outer * inner + tile_rows - 1) / tile_rows : outer * per_outer(); }
};

}  // namespace dvae
