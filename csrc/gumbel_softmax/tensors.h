// The ops of Gumbel-softmax on torch tensors, for the Device of cpu.cpp and that of cuda.cu. No kernel runs
// where there is nothing to compute, or the host knows a temperature for which all results are alike.
#pragma once

#include <cmath>
#include <tuple>

#include "common/indices.h"
#include "gumbel_softmax/arguments.h"
#include "torch/tensor.h"

namespace dvae {

// The index of each row alone.
template <class Device>
Tensor gumbel_argmax(const Tensor& logits, const Tensor& key, int64_t dim, int64_t row_offset) {
  const Device device(logits);
  const Tensor indices = new_rows(logits, dim, ScalarType::Long);
  if (logits.numel() == 0) return fill(indices, kNone);
  const NoiseArgument noise = noise_argument(key, logits, row_offset);
  with_coalesced_rows<2>({logits, logits}, dim, 0, [&](Rows<2> rows) {
    rows.tensors[1].data = nullptr;
    device.run(GumbelSoftmaxArgs{rows, noise, {nullptr, 1}, true, index_data(indices)});
  });
  return indices;
}

template <class Device>
std::tuple<Tensor, Tensor> gumbel_onehot(
    const Tensor& logits, const Tensor& key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  const Device device(logits);
  check_sample_type(logits.scalar_type(), dtype);
  const Tensor sample = empty_like(logits, dtype), indices = new_rows(logits, dim, ScalarType::Long);
  if (logits.numel() == 0) return {sample, fill(indices, kNone)};
  const NoiseArgument noise = noise_argument(key, logits, row_offset);
  with_coalesced_rows<2>({logits, sample}, dim, 1, [&](const Rows<2>& rows) {
    device.run(GumbelSoftmaxArgs{rows, noise, {nullptr, 1}, true, index_data(indices)});
  });
  return {sample, indices};
}

template <class Device>
Tensor gumbel_softmax_fwd(
    const Tensor& logits, const Tensor& key, const std::optional<Tensor>& given_tau, double tau_value, int64_t dim,
    bool hard, int64_t row_offset, ScalarType dtype) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), dtype);
  const Tensor sample = empty_like(logits, dtype);
  if (known_invalid(tau)) return fill(sample, NAN);
  if (logits.numel() == 0) return sample;
  const NoiseArgument noise = noise_argument(key, logits, row_offset);
  with_coalesced_rows<2>({logits, sample}, dim, 1, [&](const Rows<2>& rows) {
    device.run(GumbelSoftmaxArgs{rows, noise, tau, hard || known_zero(tau), nullptr});
  });
  return sample;
}

template <class Device>
Tensor gumbel_softmax_bwd(
    const Tensor& grad, const Tensor& y, const std::optional<Tensor>& given_tau, double tau_value, int64_t dim,
    ScalarType dtype) {
  const Device device(y);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, y);
  check_sample_type(dtype, y.scalar_type());
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gumbel_softmax: expected grad of the sample's dtype");
  const Tensor dlogits = empty_like(y, dtype);
  if (known_invalid(tau)) return fill(dlogits, NAN);
  if (known_zero(tau)) return fill(dlogits, 0);
  if (y.numel() == 0) return dlogits;
  with_coalesced_rows<3>({grad, y, dlogits}, dim, 1, [&](const Rows<3>& rows) {
    device.run(GumbelSoftmaxBackwardArgs{rows, tau});
  });
  return dlogits;
}

// Without a key there is no noise.
template <class Device>
std::tuple<Tensor, Tensor> gumbel_softmax_recompute_bwd(
    const Tensor& grad, const Tensor& logits, const std::optional<Tensor>& key,
    const std::optional<Tensor>& given_tau, double tau_value, int64_t dim, int64_t row_offset, bool tau_grad) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  const Tensor dlogits = empty_like(logits, logits.scalar_type()), dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (known_invalid(tau)) return {fill(dlogits, NAN), fill(dtau_rows, NAN)};
  if (known_zero(tau)) return {fill(dlogits, 0), fill(dtau_rows, 0)};
  if (logits.numel() == 0) return {dlogits, dtau_rows};
  const NoiseArgument noise = noise_argument(key, logits, row_offset);
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, 1, [&](const Rows<3>& rows) {
    device.run(GumbelSoftmaxRecomputeArgs{rows, noise, tau, optional_buffer(dtau_rows).data});
  });
  return {dlogits, dtau_rows};
}

}  // namespace dvae
