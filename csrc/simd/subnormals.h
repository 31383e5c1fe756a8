// The CPU's treatment of subnormal numbers.
#pragma once

#include "simd/intrinsics.h"

namespace dvae {

// Keeps subnormal numbers in this thread while it lives. torch.set_flush_denormal sets the caller's thread, and threads
// inherit it from the one that starts them: bits would depend on who computes them, and certified indices be wrong.
class KeepSubnormals {
 public:
#if defined(__x86_64__)
  KeepSubnormals() : before_(_mm_getcsr()) {
    if (before_ & kFlush) _mm_setcsr(before_ & ~kFlush);
  }
  ~KeepSubnormals() {
    if (before_ & kFlush) _mm_setcsr(before_);
  }
  KeepSubnormals(const KeepSubnormals&) = delete;

 private:
  static constexpr unsigned kFlush = 0x8040;  // results to zero, and arguments as zero
  unsigned before_;
#endif
};

}  // namespace dvae
