// The CUDA kernels of the categorical divergence as a CPU library for ctypes. row_parts of the forward call is the
// result.
#include "categorical_kl/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_kl_fwd(const ShimCall* c, bool prior) {
  return c->with_layout<2>(
      [&](const auto& layout, const auto& t) { categorical_kl_fwd(c->row_call(), layout, t, prior, c->row_parts); });
}

int shim_kl_bwd(const ShimCall* c, bool prior, bool prior_grad, const void* grads) {
  return c->with_layout<4>([&](const auto& layout, const auto& t) {
    categorical_kl_bwd(c->row_call(), layout, t, prior, prior_grad, grads);
  });
}
}
