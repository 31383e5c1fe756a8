// CUDA backend of the concrete density: the ops on torch tensors.

#include "gumbel_softmax_log_prob/kernels.cuh"
#include "gumbel_softmax_log_prob/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

std::tuple<Tensor, Tensor> fwd(
    Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_gumbel_softmax_log_prob_fwd(
      y, logits, device_scalar(tau, tau_value, logits), dim, on_stream(logits, gumbel_softmax_log_prob_fwd));
}

std::tuple<Tensor, Tensor, Tensor> bwd(
    Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_gumbel_softmax_log_prob_bwd(
      grad, y, logits, device_scalar(tau, tau_value, logits), dim, tau_grad,
      on_stream(logits, gumbel_softmax_log_prob_bwd));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gumbel_softmax_log_prob_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_log_prob_bwd.cuda", TORCH_BOX(&dvae::bwd));
}
