// CUDA backend of the binary concrete distribution: the ops on torch tensors.

#include "binary_concrete/kernels.cuh"
#include "binary_concrete/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, bool hard, int64_t index_offset,
           ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_binary_concrete_fwd(
      logits, key, device_scalar(tau, tau_value, logits), hard, index_offset, dtype,
      on_stream(logits, binary_concrete_fwd));
}

std::tuple<Tensor, Tensor> bwd(Tensor grad, Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value,
                               int64_t index_offset, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_binary_concrete_bwd(
      grad, logits, key, device_scalar(tau, tau_value, logits), index_offset, tau_grad,
      on_stream(logits, binary_concrete_bwd));
}

Tensor log_prob_fwd(Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  return run_binary_concrete_log_prob_fwd(
      y, logits, device_scalar(tau, tau_value, y), on_stream(y, binary_concrete_log_prob_fwd));
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau,
                                                double tau_value, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  return run_binary_concrete_log_prob_bwd(
      grad, y, logits, device_scalar(tau, tau_value, y), tau_grad, on_stream(y, binary_concrete_log_prob_bwd));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("binary_concrete_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("binary_concrete_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("binary_concrete_log_prob_fwd.cuda", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("binary_concrete_log_prob_bwd.cuda", TORCH_BOX(&dvae::log_prob_bwd));
}
