// CUDA backend of the categorical divergence and the concrete density: the ops on torch tensors.

#include <tuple>

#include "categorical/kernels.cuh"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor kl_fwd(Tensor logits, std::optional<Tensor> prior, int64_t dim) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  Tensor kl = new_rows(logits, dim, compute_type(logits.scalar_type()));
  if (logits.numel() == 0) return torch::stable::fill_(kl, 0);
  const Tensor first = prior.value_or(logits);  // in the place of a prior
  check_same_type(logits, first);
  const auto call = make_call(logits, std::nullopt, 0);
  with_coalesced_tensors<2, 0>({first, logits}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    categorical_kl_fwd(call, layout, {buffer_of(t[0]), buffer_of(t[1])}, prior.has_value(), kl.mutable_data_ptr());
  });
  return kl;
}

std::tuple<Tensor, Tensor> kl_bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> prior, int64_t dim, bool prior_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  STD_TORCH_CHECK(prior.has_value() || !prior_grad, "categorical_kl: expected a prior where its gradient is needed");
  const ScalarType type = logits.scalar_type();
  Tensor dlogits = empty_like(logits, type);
  Tensor dprior = prior_grad ? empty_like(logits, type) : new_vector(logits, 0, type);
  if (logits.numel() == 0) return {dlogits, dprior};
  grad = checked_rows(grad, logits, dim);
  const Tensor second = prior.value_or(logits), third = prior_grad ? dprior : logits;
  check_same_type(logits, second);
  const auto call = make_call(logits, std::nullopt, 0);
  const auto run = [&](const RowLayout<4>& layout, const std::array<Tensor, 4>& t) {
    categorical_kl_bwd(
        call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3])}, prior.has_value(),
        prior_grad, grad.const_data_ptr());
  };
  const std::array<Tensor, 4> tensors{logits, second, third, dlogits};
  prior_grad ? with_coalesced_tensors<4, 2>(tensors, dim, run) : with_coalesced_tensors<4, 1>(tensors, dim, run);
  return {dlogits, dprior};
}

std::tuple<Tensor, Tensor> log_prob_fwd(
    Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), y.scalar_type());
  const ScalarType compute = compute_type(logits.scalar_type());
  Tensor density = new_rows(logits, dim, compute), count = new_rows(logits, dim, compute);
  if (logits.numel() == 0) return {torch::stable::fill_(density, 0), torch::stable::fill_(count, 0)};
  const auto call = make_call(logits, tau, tau_value);
  with_coalesced_tensors<2, 0>({y, logits}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    gumbel_softmax_log_prob_fwd(
        call, layout, {buffer_of(t[0]), buffer_of(t[1])}, density.mutable_data_ptr(), count.mutable_data_ptr());
  });
  return {density, count};
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(
    Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), y.scalar_type());
  Tensor dy = empty_like(y, y.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  Tensor dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dy, dlogits, dtau_rows};
  grad = checked_rows(grad, logits, dim);
  const auto call = make_call(logits, tau, tau_value);
  void* rows = tau_grad ? dtau_rows.mutable_data_ptr() : nullptr;
  with_coalesced_tensors<4, 2>(
      {y, logits, dy, dlogits}, dim, [&](const RowLayout<4>& layout, const std::array<Tensor, 4>& t) {
        gumbel_softmax_log_prob_bwd(
            call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3])}, grad.const_data_ptr(),
            rows);
      });
  return {dy, dlogits, dtau_rows};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("categorical_kl_fwd.cuda", TORCH_BOX(&dvae::kl_fwd));
  m.impl("categorical_kl_bwd.cuda", TORCH_BOX(&dvae::kl_bwd));
  m.impl("gumbel_softmax_log_prob_fwd.cuda", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("gumbel_softmax_log_prob_bwd.cuda", TORCH_BOX(&dvae::log_prob_bwd));
}
