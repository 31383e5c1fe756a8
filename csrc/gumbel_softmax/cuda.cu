// CUDA backend of Gumbel-softmax: the ops on torch tensors.

#include <tuple>

#include "torch/cuda_op.h"
#include "gumbel_softmax/kernels.cuh"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype);
  if (sample.numel() == 0) return sample;
  const auto call = make_call(logits, tau, tau_value, &key, row_offset);
  with_coalesced_rows<2>({logits, sample}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    gumbel_softmax_fwd(call, layout, {buffer_of(t[0]), buffer_of(t[1])}, hard);
  });
  return sample;
}

Tensor argmax(Tensor logits, Tensor key, int64_t dim, int64_t row_offset) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  Tensor index = new_rows(logits, dim, ScalarType::Long);
  if (logits.numel() == 0) return torch::stable::fill_(index, kNone);
  const auto call = make_call(logits, std::nullopt, 1, &key, row_offset);
  with_coalesced_rows<2, 0>({logits, logits}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    const Buffer input = buffer_of(t[0]);
    gumbel_softmax_fwd(call, layout, {input, Buffer{nullptr, input.type}}, true, index_data(index));
  });
  return index;
}

std::tuple<Tensor, Tensor> onehot(Tensor logits, Tensor key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype), index = new_rows(logits, dim, ScalarType::Long);
  if (logits.numel() == 0) return {sample, torch::stable::fill_(index, kNone)};
  const auto call = make_call(logits, std::nullopt, 1, &key, row_offset);
  with_coalesced_rows<2>({logits, sample}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    gumbel_softmax_fwd(call, layout, {buffer_of(t[0]), buffer_of(t[1])}, true, index_data(index));
  });
  return {sample, index};
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  check_sample_type(dtype, y.scalar_type());
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gumbel_softmax: expected grad of the sample's dtype");
  Tensor dlogits = empty_like(y, dtype);
  if (y.numel() == 0) return dlogits;
  const auto call = make_call(y, tau, tau_value);
  with_coalesced_rows<3>({grad, y, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    gumbel_softmax_bwd(call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])});
  });
  return dlogits;
}

std::tuple<Tensor, Tensor> recompute_bwd(Tensor grad, Tensor logits, std::optional<Tensor> key,
                                         std::optional<Tensor> tau, double tau_value, int64_t dim, int64_t row_offset,
                                         bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dlogits, dtau_rows};
  const auto call = make_call(logits, tau, tau_value, key ? &*key : nullptr, row_offset);
  void* rows = tau_grad ? dtau_rows.mutable_data_ptr() : nullptr;
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    gumbel_softmax_recompute_bwd(call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])}, rows);
  });
  return {dlogits, dtau_rows};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gumbel_softmax_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("gumbel_softmax_recompute_bwd.cuda", TORCH_BOX(&dvae::recompute_bwd));
  m.impl("gumbel_argmax.cuda", TORCH_BOX(&dvae::argmax));
  m.impl("gumbel_onehot.cuda", TORCH_BOX(&dvae::onehot));
}
