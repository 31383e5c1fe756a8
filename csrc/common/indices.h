// The indices that stand for something else than a column or a code, for host and device.
#pragma once

#include <cstdint>

namespace dvae {

// Of a row without a column to choose: every logit is -inf; or one is NaN or +inf.
constexpr int64_t kNone = -1, kNan = -2;
// Of a row that takes no part: its code is zeros, and so is its gradient.
constexpr int64_t kMasked = -1;
// No column, where columns are numbered in 32 bits.
constexpr uint32_t kNoColumn = UINT32_MAX;

}  // namespace dvae
