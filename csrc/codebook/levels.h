// How sums by code are cut up, the same on every backend and in Triton; nothing here needs torch.
//
// Rows sorted by code are cut into blocks of kBlockRows. A block adds up its runs of one code in order. A run that ends
// inside is done; one that crosses the block's front or back leaves a partial row there. Partial rows are sorted by
// code as well, so they are summed in the same way, until one block is left: log_32(rows) levels, and no block is
// larger than another however the codes are distributed.
#pragma once

#include <utility>

#include "codebook/arguments.h"

namespace dvae {

inline int64_t partial_count(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows * 2; }
// Partial rows of the first two levels; later levels use the same memory again.
inline int64_t scratch_count(int64_t rows) { return partial_count(rows) + partial_count(partial_count(rows)); }

// Calls run(args) for every level; args.partial has room for scratch_count rows.
template <class Run>
void for_levels(CodeSumsArgs args, const Run& run) {
  const int64_t columns = args.level.columns, first = partial_count(args.level.count);
  PartialRows next{
      static_cast<char*>(args.partial.rows) + first * columns * size_of(args.sums.type), args.partial.codes + first};
  for (;;) {
    run(args);
    if (args.level.blocks() == 1) return;
    args.level = {{args.partial.rows, args.sums.type}, columns, columns, nullptr, args.partial.codes,
                  partial_count(args.level.count), args.level.num_codes};
    std::swap(args.partial, next);
  }
}

}  // namespace dvae
