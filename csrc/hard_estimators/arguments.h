// What the kernels of ReinMax and Gumbel-Rao are given, on every device; nothing here needs torch.
#pragma once

#include "common/noise.h"
#include "common/rows.h"

namespace dvae {

// The hard sample of each row is the column `indices` gives, or none where it is negative (see common/indices.h).
struct ReinmaxArgs {
  Rows<3> rows;  // grad, logits, dlogits
  ScalarArgument tau;
  const int64_t* indices;
};

struct GumbelRaoArgs {
  Rows<3> rows;  // grad, logits, dlogits
  NoiseArgument noise;
  ScalarArgument tau;
  const int64_t* indices;
  int draws;
};

}  // namespace dvae
