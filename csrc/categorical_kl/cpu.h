// Arguments of the CPU kernels, the same for every target. What there is one of a row is contiguous, in the order of the
// rows, in the compute type.
#pragma once

#include "common/rows.h"

namespace dvae {

struct KlArgs {
  Buffer logits, prior;  // null data without a prior: then, and in what follows, the uniform distribution
  RowStrides logits_strides, prior_strides;
  RowTiles tiles;
  void* kl;
};

struct KlBackwardArgs {
  const void* grad;
  Buffer logits, prior, dlogits, dprior;  // null data where the gradient to the prior is not needed
  RowStrides logits_strides, prior_strides, dlogits_strides, dprior_strides;
  RowTiles tiles;
  bool stream;  // the gradients are too large to stay in cache
};

struct LogProbArgs {
  Buffer y, logits;
  RowStrides y_strides, logits_strides;
  RowTiles tiles;
  double tau;
  void *density, *count;
};

struct LogProbBackwardArgs {
  const void* grad;
  Buffer y, logits, dy, dlogits;
  RowStrides y_strides, logits_strides, dy_strides, dlogits_strides;
  RowTiles tiles;
  double tau;
  void* dtau_rows;  // null where the gradient to tau is not needed
  bool stream;
};

}  // namespace dvae
