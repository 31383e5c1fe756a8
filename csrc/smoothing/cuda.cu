// CUDA backend of the smoothing transformations: the ops on torch tensors.

#include "smoothing/kernels.cuh"
#include "smoothing/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

ScalarArgument one(const std::optional<Tensor>& beta, double value, const Tensor& logits) {
  return device_scalar(one_beta(beta, logits), value, logits);
}

SmoothingKind kind_of(const Name& kind) { return find_kind<float>(kind.text); }

Tensor fwd(Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
           double beta_value, Name kind, int64_t index_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_smoothing_fwd(
      logits, noise, key, beta, one(beta, beta_value, logits), kind_of(kind), index_offset,
      dtype, on_stream(logits, smoothing_fwd));
}

std::tuple<Tensor, Tensor, Tensor> bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
    double beta_value, Name kind, int64_t index_offset, bool beta_grad, bool noise_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return run_smoothing_bwd(
      grad, logits, noise, key, beta, one(beta, beta_value, logits), kind_of(kind), index_offset,
      beta_grad, noise_grad, on_stream(logits, smoothing_bwd));
}

Tensor log_prob_fwd(Tensor zeta, Tensor logits, std::optional<Tensor> beta, double beta_value, Name kind) {
  const torch::stable::accelerator::DeviceGuard guard(zeta.get_device_index());
  return run_smoothing_log_prob_fwd(
      zeta, logits, beta, one(beta, beta_value, logits), kind_of(kind),
      on_stream(zeta, smoothing_log_prob_fwd));
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor zeta, Tensor logits, std::optional<Tensor> beta,
                                                double beta_value, Name kind, bool beta_grad) {
  const torch::stable::accelerator::DeviceGuard guard(zeta.get_device_index());
  return run_smoothing_log_prob_bwd(
      grad, zeta, logits, beta, one(beta, beta_value, logits), kind_of(kind), beta_grad,
      on_stream(zeta, smoothing_log_prob_bwd));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("smoothing_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("smoothing_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("smoothing_log_prob_fwd.cuda", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("smoothing_log_prob_bwd.cuda", TORCH_BOX(&dvae::log_prob_bwd));
}
