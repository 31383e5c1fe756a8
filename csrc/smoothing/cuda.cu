// CUDA backend of the smoothing transformations: the ops on torch tensors.

#include <tuple>

#include "torch/cuda_op.h"
#include "smoothing/kernels.cuh"
#include "smoothing/tensors.h"

namespace dvae {
namespace {

SmoothingCall make_smoothing_call(
    const Name& kind, const Tensor& logits, const std::optional<Tensor>& beta, double beta_value,
    const std::optional<Tensor>& noise = std::nullopt, const std::optional<Tensor>& key = std::nullopt) {
  STD_TORCH_CHECK(is_smoothing_kind<float>(kind.text), "smoothing: unknown kind ", kind.text);
  const RowCall call = make_call(logits, std::nullopt, 0, key.has_value() ? &*key : nullptr);
  SmoothingCall result;
  result.kind = kind.text;
  result.key = call.noise;
  if (noise.has_value()) result.noise = noise->const_data_ptr();
  if (beta.has_value()) result.beta = beta->const_data_ptr();
  result.beta_value = beta_value;
  result.beta_each = one_for_each(beta);
  result.stream = call.stream;
  return result;
}

void* data_of(const Tensor& tensor, bool needed) { return needed ? tensor.mutable_data_ptr() : nullptr; }

Tensor fwd(Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
           double beta_value, Name kind, int64_t index_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), dtype);
  noise = checked_noise(noise, key, logits);
  beta = checked_beta(beta, logits);
  const SmoothingCall call = make_smoothing_call(kind, logits, beta, beta_value, noise, key);
  Tensor zeta = empty_like(logits, dtype);
  if (zeta.numel() == 0) return zeta;
  with_contiguous<2>({logits, zeta}, [&](const std::array<Tensor, 2>& t) {
    smoothing_fwd(call, ElementBlocks(logits.numel(), index_offset), {buffer_of(t[0]), buffer_of(t[1])});
  });
  return zeta;
}

std::tuple<Tensor, Tensor, Tensor> bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
    double beta_value, Name kind, int64_t index_offset, bool beta_grad, bool noise_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  noise = checked_noise(noise, key, logits);
  beta = checked_beta(beta, logits);
  SmoothingCall call = make_smoothing_call(kind, logits, beta, beta_value, noise, key);
  STD_TORCH_CHECK(
      !noise_grad || noise_has_gradient<float>(kind.text), "smoothing: ", kind.text, " has no gradient to noise");
  const ScalarType compute = compute_type(logits.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), dbeta = new_beta_gradient(logits, beta, beta_grad);
  Tensor dnoise =
      noise_grad ? torch::stable::new_empty(logits, logits.sizes(), compute) : new_vector(logits, 0, compute);
  call.dbeta = data_of(dbeta, beta_grad);
  call.dnoise = data_of(dnoise, noise_grad);
  with_contiguous<3>({grad, logits, dlogits}, [&](const std::array<Tensor, 3>& t) {
    smoothing_bwd(
        call, ElementBlocks(logits.numel(), index_offset), {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])});
  });
  if (noise_grad) dnoise = laid_out_like(logits, dnoise);
  return {dlogits, beta_gradient(logits, beta, beta_grad, dbeta), dnoise};
}

Tensor log_prob_fwd(Tensor zeta, Tensor logits, std::optional<Tensor> beta, double beta_value, Name kind) {
  const torch::stable::accelerator::DeviceGuard guard(zeta.get_device_index());
  check_sample_type(logits.scalar_type(), zeta.scalar_type());
  beta = checked_beta(beta, logits);
  const SmoothingCall call = make_smoothing_call(kind, logits, beta, beta_value);
  Tensor log_prob = empty_like(zeta, compute_type(zeta.scalar_type()));
  with_contiguous<3>({zeta, logits, log_prob}, [&](const std::array<Tensor, 3>& t) {
    smoothing_log_prob_fwd(
        call, ElementBlocks(zeta.numel(), 0), {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])});
  });
  return log_prob;
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor zeta, Tensor logits, std::optional<Tensor> beta,
                                                double beta_value, Name kind, bool beta_grad) {
  const torch::stable::accelerator::DeviceGuard guard(zeta.get_device_index());
  check_sample_type(logits.scalar_type(), zeta.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(zeta.scalar_type()),
      "smoothing_log_prob: expected grad of the log density's dtype");
  beta = checked_beta(beta, logits);
  SmoothingCall call = make_smoothing_call(kind, logits, beta, beta_value);
  Tensor dzeta = empty_like(zeta, zeta.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  Tensor dbeta = new_beta_gradient(logits, beta, beta_grad);
  call.dbeta = data_of(dbeta, beta_grad);
  with_contiguous<5, 2>({grad, zeta, logits, dzeta, dlogits}, [&](const std::array<Tensor, 5>& t) {
    smoothing_log_prob_bwd(
        call, ElementBlocks(zeta.numel(), 0),
        {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3]), buffer_of(t[4])});
  });
  return {dzeta, dlogits, beta_gradient(logits, beta, beta_grad, dbeta)};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("smoothing_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("smoothing_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("smoothing_log_prob_fwd.cuda", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("smoothing_log_prob_bwd.cuda", TORCH_BOX(&dvae::log_prob_bwd));
}
