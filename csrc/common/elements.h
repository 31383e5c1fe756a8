// How elementwise operations number their elements and cut them into blocks, for host and device: as in
// dvae_kernels/_elements.py and _rng.py.
#pragma once

#include <cstdint>

#include "common/philox.h"

namespace dvae {

constexpr int kElementBlock = 2048;

// Element i of a tensor has number index_offset + i in the stream. Blocks start on whole Philox counters, so the first
// one lacks `shift` elements, and positions count from there: element i is at position i + shift.
struct ElementBlocks {
  int64_t count;   // elements of the tensor
  uint64_t group;  // the counter of position 0; four elements share one
  int shift;

  ElementBlocks(int64_t elements, int64_t index_offset)
      : count(elements),
        group(static_cast<uint64_t>(index_offset) >> 2),
        shift(static_cast<int>(static_cast<uint64_t>(index_offset) & 3)) {}

  // The same for every shift.
  int64_t blocks() const { return (count + 3 + kElementBlock - 1) / kElementBlock; }
};

// The words of the elements 4 * group .. 4 * group + 3 of the stream.
DVAE_HD inline Philox4x32 element_words(uint64_t key, uint32_t offset, uint64_t group, uint32_t draw = 0) {
  return philox4x32(key, static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), offset, draw);
}

}  // namespace dvae
