// CUDA backend of Gumbel-softmax: the ops on torch tensors.

#include "gumbel_softmax/kernels.cuh"
#include "gumbel_softmax/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor argmax(Tensor logits, Tensor key, int64_t dim, int64_t row_offset) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_gumbel_argmax(logits, key, dim, row_offset, on_stream(logits, gumbel_softmax_fwd));
}

std::tuple<Tensor, Tensor> onehot(Tensor logits, Tensor key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_gumbel_onehot(logits, key, dim, row_offset, dtype, on_stream(logits, gumbel_softmax_fwd));
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_gumbel_softmax_fwd(
      logits, key, device_scalar(tau, tau_value, logits), dim, hard, row_offset, dtype,
      on_stream(logits, gumbel_softmax_fwd));
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  return run_gumbel_softmax_bwd(
      grad, y, device_scalar(tau, tau_value, y), dim, dtype, on_stream(y, gumbel_softmax_bwd));
}

std::tuple<Tensor, Tensor> recompute_bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> key, std::optional<Tensor> tau, double tau_value, int64_t dim,
    int64_t row_offset, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_gumbel_softmax_recompute_bwd(
      grad, logits, key, device_scalar(tau, tau_value, logits), dim, row_offset, tau_grad,
      on_stream(logits, gumbel_softmax_recompute_bwd));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gumbel_argmax.cuda", TORCH_BOX(&dvae::argmax));
  m.impl("gumbel_onehot.cuda", TORCH_BOX(&dvae::onehot));
  m.impl("gumbel_softmax_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("gumbel_softmax_recompute_bwd.cuda", TORCH_BOX(&dvae::recompute_bwd));
}
