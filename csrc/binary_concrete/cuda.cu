// CUDA backend of the binary concrete distribution: the ops on torch tensors.

#include <tuple>

#include "binary_concrete/kernels.cuh"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, bool hard, int64_t index_offset,
           ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype);
  if (sample.numel() == 0) return sample;
  const auto call = make_call(logits, tau, tau_value, &key);
  const ElementBlocks blocks(logits.numel(), index_offset);
  with_contiguous<2>({logits, sample}, [&](const std::array<Tensor, 2>& t) {
    binary_concrete_fwd(call, blocks, {buffer_of(t[0]), buffer_of(t[1])}, hard);
  });
  return sample;
}

std::tuple<Tensor, Tensor> bwd(Tensor grad, Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value,
                               int64_t index_offset, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), parts = new_block_sums(logits, tau_grad);
  const auto call = make_call(logits, tau, tau_value, &key);
  const ElementBlocks blocks(logits.numel(), index_offset);
  with_contiguous<3>({grad, logits, dlogits}, [&](const std::array<Tensor, 3>& t) {
    binary_concrete_bwd(
        call, blocks, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])},
        tau_grad ? parts.mutable_data_ptr() : nullptr);
  });
  return {dlogits, parts};
}

Tensor log_prob_fwd(Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  check_sample_type(logits.scalar_type(), y.scalar_type());
  Tensor log_prob = empty_like(y, compute_type(y.scalar_type()));
  if (y.numel() == 0) return log_prob;
  const auto call = make_call(y, tau, tau_value);
  with_contiguous<3>({y, logits, log_prob}, [&](const std::array<Tensor, 3>& t) {
    binary_concrete_log_prob_fwd(
        call, ElementBlocks(y.numel(), 0), {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])});
  });
  return log_prob;
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau,
                                                double tau_value, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  check_sample_type(logits.scalar_type(), y.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(y.scalar_type()),
      "binary_concrete_log_prob: expected grad of the log density's dtype");
  Tensor dy = empty_like(y, y.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  Tensor parts = new_block_sums(y, tau_grad);
  const auto call = make_call(y, tau, tau_value);
  with_contiguous<5, 2>({grad, y, logits, dy, dlogits}, [&](const std::array<Tensor, 5>& t) {
    binary_concrete_log_prob_bwd(
        call, ElementBlocks(y.numel(), 0),
        {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3]), buffer_of(t[4])},
        tau_grad ? parts.mutable_data_ptr() : nullptr);
  });
  return {dy, dlogits, parts};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("binary_concrete_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("binary_concrete_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("binary_concrete_log_prob_fwd.cuda", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("binary_concrete_log_prob_bwd.cuda", TORCH_BOX(&dvae::log_prob_bwd));
}
