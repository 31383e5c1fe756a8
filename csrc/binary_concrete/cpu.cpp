// CPU backend of the binary concrete distribution: the ops on torch tensors, in parallel over blocks of elements.

#include "simd/intrinsics.h"

#include "binary_concrete/tensors.h"
#include "torch/cpu_op.h"
#include "torch/parallel.h"

#define DVAE_OP binary_concrete
#include "simd/foreach_target.h"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, bool hard, int64_t index_offset,
           ScalarType dtype) {
  return run_binary_concrete_fwd(
      logits, key, host_scalar(tau, tau_value, logits), hard, index_offset, dtype,
      over_blocks(DVAE_DISPATCH(binary_concrete_fwd)));
}

std::tuple<Tensor, Tensor> bwd(Tensor grad, Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value,
                               int64_t index_offset, bool tau_grad) {
  return run_binary_concrete_bwd(
      grad, logits, key, host_scalar(tau, tau_value, logits), index_offset, tau_grad,
      over_blocks(DVAE_DISPATCH(binary_concrete_bwd)));
}

Tensor log_prob_fwd(Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value) {
  return run_binary_concrete_log_prob_fwd(
      y, logits, host_scalar(tau, tau_value, logits), over_blocks(DVAE_DISPATCH(binary_concrete_log_prob_fwd)));
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau,
                                                double tau_value, bool tau_grad) {
  return run_binary_concrete_log_prob_bwd(
      grad, y, logits, host_scalar(tau, tau_value, logits), tau_grad,
      over_blocks(DVAE_DISPATCH(binary_concrete_log_prob_bwd)));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("binary_concrete_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("binary_concrete_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("binary_concrete_log_prob_fwd.cpp", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("binary_concrete_log_prob_bwd.cpp", TORCH_BOX(&dvae::log_prob_bwd));
}
