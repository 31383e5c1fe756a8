// Arguments of the CPU kernels, the same for every target.
#pragma once

#include <atomic>

#include "codebook/blocks.h"

namespace dvae {

struct CodeSumsArgs {
  SortedRows level;
  PartialRows partial;
  void* sums;
  std::atomic<bool>* finite;  // becomes false where a sum is not

  // as parallel_for_tiles shares them out
  struct Tiles {
    int64_t columns, blocks;
    int64_t tile_rows = kBlockRows, ranges = 1;
    int64_t count() const { return blocks; }
  };
  Tiles tiles() const { return {level.columns, level.blocks()}; }
};

}  // namespace dvae
