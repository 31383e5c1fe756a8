// ReinMax and Gumbel-Rao on torch tensors, for the Device of cpu.cpp and that of cuda.cu. No kernel runs
// where there is nothing to compute, or the host knows a temperature for which all results are alike.
#pragma once

#include <cmath>

#include "hard_estimators/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Device>
Tensor reinmax_bwd(
    const Tensor& grad, const Tensor& logits, const Tensor& index, const std::optional<Tensor>& given_tau,
    double tau_value, int64_t dim) {
  const Device device(logits);
  const Tensor indices = contiguous_index(index, logits, dim);
  device.check_indices(indices, logits.size(dim));
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  const Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (known_invalid(tau)) return fill(dlogits, NAN);
  if (known_zero(tau)) return fill(dlogits, 0);
  if (logits.numel() == 0) return dlogits;
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, 1, [&](const Rows<3>& rows) {
    device.run(ReinmaxArgs{rows, tau, index_data(indices)});
  });
  return dlogits;
}

template <class Device>
Tensor gumbel_rao_bwd(
    const Tensor& grad, const Tensor& logits, const Tensor& key, const Tensor& index,
    const std::optional<Tensor>& given_tau, double tau_value, int64_t dim, int64_t draws, int64_t row_offset) {
  const Device device(logits);
  const Tensor indices = contiguous_index(index, logits, dim);
  device.check_indices(indices, logits.size(dim));
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  STD_TORCH_CHECK(draws >= 1 && draws <= INT32_MAX, "gumbel_rao: expected draws in [1, 2^31)");
  const Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (known_invalid(tau)) return fill(dlogits, NAN);
  if (known_zero(tau)) return fill(dlogits, 0);
  if (logits.numel() == 0) return dlogits;
  const NoiseArgument noise = noise_argument(key, logits, row_offset);
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, 1, [&](const Rows<3>& rows) {
    device.run(GumbelRaoArgs{rows, noise, tau, index_data(indices), static_cast<int>(draws)});
  });
  return dlogits;
}

}  // namespace dvae
