// What the kernels of the categorical divergence are given, on every device; nothing here needs torch. What there is one of
// a row is contiguous, in the order of the rows, in the compute type.
#pragma once

#include "common/rows.h"

namespace dvae {

// Without a prior, which stands for the uniform distribution, the logits are in its place.
struct CategoricalKlArgs {
  Rows<2> rows;  // prior, logits
  bool has_prior;
  void* kl;
};

struct CategoricalKlBackwardArgs {
  Rows<4> rows;  // logits, prior, dprior, dlogits; the logits in the place of what there is not
  bool has_prior, prior_grad;
  const void* grad;
};

}  // namespace dvae
