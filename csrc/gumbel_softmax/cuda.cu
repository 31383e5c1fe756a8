// CUDA backend of Gumbel-softmax: the ops on torch tensors.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <tuple>

#include "common/tensor.h"
#include "gumbel_softmax/kernels.cuh"

namespace dvae {
namespace {

// The call's arguments as kernels take them, on the current stream of `like`'s device.
GumbelSoftmaxCall make_call(
    const Tensor& like, const std::optional<Tensor>& tau, double tau_value, const Tensor* key = nullptr,
    int64_t row_offset = 0) {
  GumbelSoftmaxCall call;
  if (key != nullptr) {
    const auto* words = static_cast<const int64_t*>(key->const_data_ptr());
    call.noise = {words, key->stride(0), static_cast<uint32_t>(row_offset)};
  }
  if (tau.has_value()) {
    STD_TORCH_CHECK(
        tau->scalar_type() == compute_type(like.scalar_type()) && tau->numel() == 1,
        "gumbel_softmax: expected tau to be one value in the compute type");
    call.tau = tau->const_data_ptr();
  }
  call.tau_value = tau_value;
  const auto device = like.get_device_index();
  check_cuda(cudaSetDevice(device));  // as torch's guard did in its own copy of the CUDA runtime
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  call.stream = static_cast<Stream>(stream);
  return call;
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype);
  if (sample.numel() == 0) return sample;
  const auto call = make_call(logits, tau, tau_value, &key, row_offset);
  for_collapsed_rows<2>({logits, sample}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    gumbel_softmax_fwd(call, layout, {buffer_of(t[0]), buffer_of(t[1])}, hard);
  });
  return sample;
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  check_sample_type(dtype, y.scalar_type());
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gumbel_softmax: expected grad of the sample's dtype");
  Tensor dlogits = empty_like(y, dtype);
  if (y.numel() == 0) return dlogits;
  const auto call = make_call(y, tau, tau_value);
  for_collapsed_rows<3>({grad, y, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    gumbel_softmax_bwd(call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])});
  });
  return dlogits;
}

std::tuple<Tensor, Tensor> recompute_bwd(Tensor grad, Tensor logits, Tensor key, std::optional<Tensor> tau,
                                         double tau_value, int64_t dim, int64_t row_offset, bool tau_grad) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dlogits, dtau_rows};
  auto call = make_call(logits, tau, tau_value, &key, row_offset);
  if (tau_grad) call.dtau_rows = dtau_rows.mutable_data_ptr();
  for_collapsed_rows<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    gumbel_softmax_recompute_bwd(call, layout, {buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2])});
  });
  return {dlogits, dtau_rows};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gumbel_softmax_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_bwd.cuda", TORCH_BOX(&dvae::bwd));
  m.impl("gumbel_softmax_recompute_bwd.cuda", TORCH_BOX(&dvae::recompute_bwd));
}
