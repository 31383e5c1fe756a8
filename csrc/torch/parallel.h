// Tiles of rows over torch's own threads, and the choice of the kernel for the running CPU.
#pragma once

#include "torch/errors.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "common/elements.h"
#include "common/threads.h"
#include "simd/subnormals.h"
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

// Elements whose work is worth waking a thread for: some ten microseconds.
constexpr int64_t kThreadElements = 1 << 14;

// Calls body(begin, end) for ranges of `count` items of `elements` each, on torch's threads.
template <class Body>
void parallel_for(int64_t count, int64_t elements, const Body& body, int64_t thread_elements = kThreadElements) {
  const int64_t grain = std::max<int64_t>(thread_elements / std::max<int64_t>(elements, 1), 1);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const KeepSubnormals keep;
    body(begin, end);
  });
}

// What kernels that share out a row are handed down.
inline void parallel_for_ranges(int64_t count, int64_t grain, const RangeBody& body) {
  parallel_for(count, 1, body, grain);
}

// kernel(args, begin, end) over all rows.
template <class Args>
void parallel_for_rows(
    void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t thread_elements = kThreadElements) {
  const auto body = [&](int64_t begin, int64_t end) { kernel(args, begin, end); };
  parallel_for(args.rows, args.columns, body, thread_elements);
}

// kernel(args, begin, end) over all blocks of elements.
template <class Args>
void parallel_for_blocks(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  parallel_for(args.blocks.blocks(), kElementBlock, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

}  // namespace dvae
