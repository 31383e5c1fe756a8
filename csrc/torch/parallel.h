// Tiles of rows over torch's own threads, and the choice of the kernel for the running CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "common/elements.h"
#include "simd/targets.h"

// The build of a kernel for the active target.
#if defined(__x86_64__)
#define DVAE_DISPATCH(kernel)                                       \
  (dvae::has_avx512(dvae::active_target)          ? avx512::kernel  \
   : dvae::active_target == dvae::CpuTarget::avx2 ? avx2::kernel    \
                                                  : baseline::kernel)
#else
#define DVAE_DISPATCH(kernel) baseline::kernel
#endif

namespace dvae {

// kernel(args, begin, end) over all tiles. Results must not depend on how the tiles are shared out. Where they are too
// few to go round and a row can be split into more parts, they run one after the other and the kernel shares out rows.
template <class Tiles, class Args>
void parallel_for_tiles(const Tiles& tiles, void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  constexpr int64_t elements_per_thread = 1 << 14;  // some ten microseconds, well above the cost of waking a thread
  const int64_t tile = std::max<int64_t>(tiles.categories * tiles.tile_rows, 1);
  const int64_t grain = std::max<int64_t>(elements_per_thread / tile, 1);
  const int64_t threads = torch::stable::get_num_threads();
  if (tiles.count() < threads && tiles.ranges > tiles.count()) return kernel(args, 0, tiles.count());
  torch::stable::parallel_for(0, tiles.count(), grain, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

// kernel(args, begin, end) over all blocks of elements.
template <class Args>
void parallel_for_blocks(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  constexpr int64_t elements_per_thread = 1 << 14;
  torch::stable::parallel_for(
      0, args.blocks.blocks(), elements_per_thread / kElementBlock,
      [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

}  // namespace dvae
