// CUDA backend of Gumbel-softmax: the ops on torch tensors.

#include <tuple>

#include "gumbel_softmax/kernels.cuh"
#include "gumbel_softmax/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor argmax(Tensor logits, Tensor key, int64_t dim, int64_t row_offset) {
  const DeviceCall call(logits);
  const GumbelSoftmaxTensors tensors(logits, key, dim, row_offset, std::nullopt, true);
  tensors.run({nullptr, 1}, true, [&](const auto& args) { gumbel_softmax_fwd(call.stream, args); });
  return *tensors.index;
}

std::tuple<Tensor, Tensor> onehot(Tensor logits, Tensor key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  const DeviceCall call(logits);
  const GumbelSoftmaxTensors tensors(logits, key, dim, row_offset, dtype, true);
  tensors.run({nullptr, 1}, true, [&](const auto& args) { gumbel_softmax_fwd(call.stream, args); });
  return {*tensors.sample, *tensors.index};
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  const DeviceCall call(logits);
  const GumbelSoftmaxTensors tensors(logits, key, dim, row_offset, dtype, false);
  tensors.run(device_tau(tau, tau_value, logits), hard, [&](const auto& args) {
    gumbel_softmax_fwd(call.stream, args);
  });
  return *tensors.sample;
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  const DeviceCall call(y);
  const GumbelSoftmaxBackwardTensors tensors(grad, y, dim, dtype);
  tensors.run(device_tau(tau, tau_value, y), [&](const auto& args) { gumbel_softmax_bwd(call.stream, args); });
  return tensors.dlogits;
}

std::tuple<Tensor, Tensor> recompute_bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> key, std::optional<Tensor> tau, double tau_value, int64_t dim,
    int64_t row_offset, bool tau_grad) {
  const DeviceCall call(logits);
  const GumbelSoftmaxRecomputeTensors tensors(grad, logits, key, dim, row_offset, tau_grad);
  tensors.run(device_tau(tau, tau_value, logits), [&](const auto& args) {
    gumbel_softmax_recompute_bwd(call.stream, args);
  });
  return {tensors.dlogits, tensors.dtau_rows};
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
