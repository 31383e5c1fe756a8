// The CUDA kernels of the categorical divergence and the concrete density as a CPU library for ctypes. row_parts is what
// there is one of a row: of the forward divergence the result, else the gradients to tau; other such values are arguments.
#include "categorical/kernels.cuh"
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
