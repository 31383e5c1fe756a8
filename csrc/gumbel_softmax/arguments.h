// What the kernels of Gumbel-softmax are given, on every device; nothing here needs torch.
#pragma once

#include "common/noise.h"
#include "common/rows.h"

namespace dvae {

struct GumbelSoftmaxArgs {
  Rows<2> rows;  // logits, sample; a sample without data where only the indices are wanted
  NoiseArgument noise;
  ScalarArgument tau;
  bool hard;
  int64_t* indices;  // of the columns that a hard sample chose, as gumbel_argmax gives them; or null
};

struct GumbelSoftmaxBackwardArgs {
  Rows<3> rows;  // grad, sample, dlogits
  ScalarArgument tau;
};

struct GumbelSoftmaxRecomputeArgs {
  Rows<3> rows;  // grad, logits, dlogits
  NoiseArgument noise;
  ScalarArgument tau;
  void* dtau_rows;  // one number for each row, in the compute type; null where the gradient to tau is not needed
};

}  // namespace dvae
