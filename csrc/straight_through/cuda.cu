// CUDA backend of ReinMax and Gumbel-Rao: the ops on torch tensors.

#include "torch/cuda_op.h"
#include "straight_through/kernels.cuh"

namespace dvae {
namespace {

Tensor reinmax(Tensor grad, Tensor logits, Tensor index, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (logits.numel() == 0) return dlogits;
  const auto call = make_call(logits, tau, tau_value);
  const Tensor indices = contiguous_index(index, logits, dim);
  with_coalesced_tensors<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    reinmax_bwd(call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])}, index_data(indices));
  });
  return dlogits;
}

Tensor gumbel_rao(Tensor grad, Tensor logits, Tensor key, Tensor index, std::optional<Tensor> tau, double tau_value,
                  int64_t dim, int64_t draws, int64_t row_offset) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  STD_TORCH_CHECK(draws >= 1 && draws <= INT32_MAX, "gumbel_rao: expected draws in [1, 2^31)");
  Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (logits.numel() == 0) return dlogits;
  const auto call = make_call(logits, tau, tau_value, &key, row_offset);
  const Tensor indices = contiguous_index(index, logits, dim);
  Tensor sums;  // alive until the kernel is launched
  const auto new_sums = [&](int64_t count) {
    sums = new_vector(logits, count, compute_type(logits.scalar_type()));
    return sums.mutable_data_ptr();
  };
  with_coalesced_tensors<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    const auto count = static_cast<int>(draws);
    gumbel_rao_bwd(call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])}, index_data(indices), count, new_sums);
  });
  return dlogits;
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("reinmax_bwd.cuda", TORCH_BOX(&dvae::reinmax));
  m.impl("gumbel_rao_bwd.cuda", TORCH_BOX(&dvae::gumbel_rao));
}
