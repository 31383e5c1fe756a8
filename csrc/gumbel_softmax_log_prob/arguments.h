// What the kernels of the concrete density are given, on every device; nothing here needs torch. What there is one of a row
// is contiguous, in the order of the rows, in the compute type.
#pragma once

#include "common/rows.h"

namespace dvae {

struct LogProbArgs {
  Rows<2> rows;  // y, logits
  ScalarArgument tau;
  void *density, *count;
};

struct LogProbBackwardArgs {
  Rows<4> rows;  // y, logits, dy, dlogits
  ScalarArgument tau;
  const void* grad;
  void* dtau_rows;  // null where the gradient to tau is not needed
};

}  // namespace dvae
