// How sums by code are cut up, the same on every backend and in Triton; nothing here needs torch.
//
// Rows sorted by code are cut into blocks of kBlockRows. A block adds up its runs of one code in order. A run that ends
// inside is done; one that crosses the block's front or back leaves a partial row there. Partial rows are sorted by
// code as well, so they are summed in the same way, until one block is left: log_32(rows) levels, and no block is
// larger than another however the codes are distributed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/buffers.h"

namespace dvae {

constexpr int64_t kBlockRows = 64;

// A level: `count` rows by ascending code. Code `num_codes` takes no part.
struct SortedRows {
  Buffer rows;
  int64_t stride, columns;
  const int64_t* order;  // row numbers, or null where the rows themselves are sorted
  const int32_t* codes;  // of the sorted rows
  int64_t count;
  int32_t num_codes;

  int64_t blocks() const { return (count + kBlockRows - 1) / kBlockRows; }
};

// Two of a block: for the run that reaches back into the block before and for the one that continues in the next.
struct PartialRows {
  void* rows;
  int32_t* codes;
};

inline int64_t partial_count(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows * 2; }
// Partial rows of the first two levels; later levels use the same memory again.
inline int64_t scratch_count(int64_t rows) { return partial_count(rows) + partial_count(partial_count(rows)); }

// Calls run(level, partial rows) for every level; scratch has room for scratch_count rows of the compute type.
template <class Run>
void for_levels(SortedRows level, Storage compute, PartialRows scratch, const Run& run) {
  const int64_t first = partial_count(level.count);
  PartialRows next{
      static_cast<char*>(scratch.rows) + first * level.columns * size_of(compute), scratch.codes + first};
  for (;;) {
    run(level, scratch);
    if (level.blocks() == 1) return;
    level = {{scratch.rows, compute}, level.columns, level.columns, nullptr, scratch.codes,
             partial_count(level.count), level.num_codes};
    std::swap(scratch, next);
  }
}

}  // namespace dvae
