// CUDA backend of the categorical divergence: the ops on torch tensors.

#include "categorical_kl/kernels.cuh"
#include "categorical_kl/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, std::optional<Tensor> prior, int64_t dim) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_categorical_kl_fwd(logits, prior, dim, on_stream(logits, categorical_kl_fwd));
}

std::tuple<Tensor, Tensor> bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> prior, int64_t dim, bool prior_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_categorical_kl_bwd(
      grad, logits, prior, dim, prior_grad, on_stream(logits, categorical_kl_bwd));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("categorical_kl_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("categorical_kl_bwd.cuda", TORCH_BOX(&dvae::bwd));
}
