// The CUDA kernels of the concrete density as a CPU library for ctypes. row_parts: the gradients to tau.
#include "categorical_kl/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_log_prob_fwd(const ShimCall* c, void* density, void* count) {
  return c->with_layout<2>([&](const auto& layout, const auto& t) {
    gumbel_softmax_log_prob_fwd(c->row_call(), layout, t, density, count);
  });
}

int shim_log_prob_bwd(const ShimCall* c, const void* grads) {
  return c->with_layout<4>([&](const auto& layout, const auto& t) {
    gumbel_softmax_log_prob_bwd(c->row_call(), layout, t, grads, c->row_parts);
  });
}
}
