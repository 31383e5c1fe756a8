// Constants that SIMD kernels hold in registers.
#pragma once

#include <cmath>

namespace dvae {

// For mantissas m in [1 + j/32, 1 + (j+1)/32): a reciprocal of the middle and minus its logarithm. Of the floats near
// that reciprocal the one whose logarithm rounds least is taken, or the rounding would show where logarithms cancel.
struct alignas(64) LogTable {
  float reciprocal[32], log2[32];

  LogTable() {
    for (int j = 0; j < 32; ++j) {
      double least = 1;
      for (int step = -128; step <= 128; ++step) {
        const auto candidate = static_cast<float>(64.0 / (65 + 2 * j) * (1 + step * 0x1p-23));
        const double log = -std::log2(static_cast<double>(candidate));
        const double rounding = std::abs(log - static_cast<double>(static_cast<float>(log)));
        if (rounding >= least) continue;
        least = rounding;
        reciprocal[j] = candidate;
        log2[j] = static_cast<float>(log);
      }
    }
    reciprocal[31] = 0.5f;  // exact, so that logarithms of numbers just below one keep their relative accuracy
    log2[31] = 1.0f;
  }
};

inline const LogTable kLogTable;

}  // namespace dvae
