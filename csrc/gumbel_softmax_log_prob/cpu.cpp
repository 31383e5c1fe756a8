// CPU backend of the concrete density: the ops on torch tensors, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "gumbel_softmax_log_prob/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP gumbel_softmax_log_prob
#include "simd/foreach_target.h"

namespace dvae {
namespace {

std::tuple<Tensor, Tensor> fwd(
    Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  return run_gumbel_softmax_log_prob_fwd(
      y, logits, host_scalar(tau, tau_value, logits), dim, over_tiles(DVAE_DISPATCH(gumbel_softmax_log_prob_fwd)));
}

std::tuple<Tensor, Tensor, Tensor> bwd(
    Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim, bool tau_grad) {
  return run_gumbel_softmax_log_prob_bwd(
      grad, y, logits, host_scalar(tau, tau_value, logits), dim, tau_grad,
      over_tiles(DVAE_DISPATCH(gumbel_softmax_log_prob_bwd)));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gumbel_softmax_log_prob_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_log_prob_bwd.cpp", TORCH_BOX(&dvae::bwd));
}
