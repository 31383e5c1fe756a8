// The CUDA kernels of the categorical divergence as a CPU library for ctypes. row_parts of the forward call is the
// result.
#include "categorical_kl/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_kl_fwd(const ShimCall* c, bool prior) {
  return c->with_rows<2>([&](const Rows<2>& rows) { categorical_kl_fwd({}, {rows, prior, c->row_parts}); });
}

int shim_kl_bwd(const ShimCall* c, bool prior, bool prior_grad, const void* grads) {
  return c->with_rows<4>([&](const Rows<4>& rows) { categorical_kl_bwd({}, {rows, prior, prior_grad, grads}); });
}
}
