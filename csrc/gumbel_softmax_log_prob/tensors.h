// The concrete density on torch tensors, for the Device of cpu.cpp and that of cuda.cu. No kernel runs where
// there is nothing to compute.
#pragma once

#include <tuple>

#include "gumbel_softmax_log_prob/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Device>
std::tuple<Tensor, Tensor> gumbel_softmax_log_prob_fwd(
    const Tensor& y, const Tensor& logits, const std::optional<Tensor>& given_tau, double tau_value, int64_t dim) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), y.scalar_type());
  const ScalarType compute = compute_type(logits.scalar_type());
  const Tensor density = new_rows(logits, dim, compute), count = new_rows(logits, dim, compute);
  if (logits.numel() == 0) return {fill(density, 0), fill(count, 0)};
  with_coalesced_rows<2>({y, logits}, dim, 0, [&](const Rows<2>& rows) {
    device.run(LogProbArgs{rows, tau, density.mutable_data_ptr(), count.mutable_data_ptr()});
  });
  return {density, count};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> gumbel_softmax_log_prob_bwd(
    const Tensor& given_grad, const Tensor& y, const Tensor& logits, const std::optional<Tensor>& given_tau,
    double tau_value, int64_t dim, bool tau_grad) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), y.scalar_type());
  const Tensor dy = empty_like(y, y.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  const Tensor dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dy, dlogits, dtau_rows};
  const Tensor grad = checked_rows(given_grad, logits, dim);
  with_coalesced_rows<4>({y, logits, dy, dlogits}, dim, 2, [&](const Rows<4>& rows) {
    device.run(LogProbBackwardArgs{rows, tau, grad.const_data_ptr(), optional_buffer(dtau_rows).data});
  });
  return {dy, dlogits, dtau_rows};
}

}  // namespace dvae
