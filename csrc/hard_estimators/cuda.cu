// CUDA backend of ReinMax and Gumbel-Rao: the ops on torch tensors.

#include "hard_estimators/kernels.cuh"
#include "hard_estimators/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor reinmax(Tensor grad, Tensor logits, Tensor index, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_reinmax_bwd(
      grad, logits, index, device_scalar(tau, tau_value, logits), dim, on_stream(logits, reinmax_bwd));
}

Tensor gumbel_rao(Tensor grad, Tensor logits, Tensor key, Tensor index, std::optional<Tensor> tau, double tau_value,
                  int64_t dim, int64_t draws, int64_t row_offset) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  Tensor sums;  // alive until the kernel is launched
  const auto new_sums = [&](int64_t count) {
    sums = new_vector(logits, count, compute_type(logits.scalar_type()));
    return sums.mutable_data_ptr();
  };
  return run_gumbel_rao_bwd(
      grad, logits, key, index, device_scalar(tau, tau_value, logits), dim, draws, row_offset,
      [&](const GumbelRaoArgs& args) { gumbel_rao_bwd(current_stream(logits), args, new_sums); });
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("reinmax_bwd.cuda", TORCH_BOX(&dvae::reinmax));
  m.impl("gumbel_rao_bwd.cuda", TORCH_BOX(&dvae::gumbel_rao));
}
