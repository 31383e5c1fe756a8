// The arguments of the codebook kernels, on every device; nothing here needs torch. Strides are those of rows, in
// elements; the elements of a row lie next to each other.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/buffers.h"
#include "common/indices.h"

namespace dvae {

struct GatherArgs {
  int64_t rows, columns;
  Buffer codebook;
  int64_t codebook_stride, num_codes;
  const int64_t* indices;  // of each row's code; kMasked: a row of zeros; another outside [0, num_codes): a row of NaN
  Buffer output;           // contiguous, of the codebook's type
};

constexpr int64_t kBlockRows = 64;

// `count` rows by ascending code. Rows of code `num_codes` take no part.
struct SortedRows {
  Buffer rows;
  int64_t stride, columns;
  const int64_t* order;  // row numbers, or null if the rows themselves are sorted
  const int32_t* codes;  // of the sorted rows
  int64_t count;
  int32_t num_codes;

  int64_t blocks() const { return (count + kBlockRows - 1) / kBlockRows; }
};

// Two rows per block: for the run that reaches back into the block before, and for the run that continues in the next.
struct PartialRows {
  void* rows;  // in the compute type
  int32_t* codes;
};

// One level of the sums by code; see levels.h.
struct CodeSumsArgs {
  SortedRows level;
  Buffer sums;  // [num_codes, columns] in the compute type; zeros before the first level
  PartialRows partial;
  std::atomic<bool>* finite = nullptr;  // on the CPU: becomes false if a sum is not finite
};

// CPU: masks the indices of rows that are not finite.
struct FiniteRowsArgs {
  int64_t rows, columns;
  Buffer x;
  int64_t x_stride;
  int64_t* indices;
};

// CUDA: sort keys, the index or `num_codes` for rows that take no part.
struct CodeKeysArgs {
  int64_t rows, columns;
  Buffer x;  // its rows that are not finite take no part; no data: every row counts as finite
  int64_t x_stride;
  const int64_t* indices;
  int32_t num_codes;
  int32_t* keys;
};

// CUDA: the number of rows of each code.
struct CodeCountsArgs {
  const int32_t* codes;  // ascending
  int64_t rows;
  int32_t num_codes;
  Buffer counts;  // in the compute type
};

}  // namespace dvae
