// Checks and memory of ReinMax and Gumbel-Rao, for CPU and CUDA. Each function calls run(args) with the arguments of the
// kernel, unless there is nothing to compute, or the host knows a temperature for which all results are alike.
#pragma once

#include <cmath>

#include "hard_estimators/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Run>
Tensor run_reinmax_bwd(
    const Tensor& grad, const Tensor& logits, const Tensor& index, const ScalarArgument& tau, int64_t dim,
    const Run& run) {
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  const Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (known_invalid(tau)) return fill(dlogits, NAN);
  if (known_zero(tau)) return fill(dlogits, 0);
  if (logits.numel() == 0) return dlogits;
  const Tensor indices = contiguous_index(index, logits, dim);
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, 1, [&](const Rows<3>& rows) {
    run(ReinmaxArgs{rows, tau, index_data(indices)});
  });
  return dlogits;
}

template <class Run>
Tensor run_gumbel_rao_bwd(
    const Tensor& grad, const Tensor& logits, const Tensor& key, const Tensor& index, const ScalarArgument& tau,
    int64_t dim, int64_t draws, int64_t row_offset, const Run& run) {
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  STD_TORCH_CHECK(draws >= 1 && draws <= INT32_MAX, "gumbel_rao: expected draws in [1, 2^31)");
  const Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (known_invalid(tau)) return fill(dlogits, NAN);
  if (known_zero(tau)) return fill(dlogits, 0);
  if (logits.numel() == 0) return dlogits;
  const NoiseArgument noise = noise_argument(key, logits, row_offset);
  const Tensor indices = contiguous_index(index, logits, dim);
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, 1, [&](const Rows<3>& rows) {
    run(GumbelRaoArgs{rows, noise, tau, index_data(indices), static_cast<int>(draws)});
  });
  return dlogits;
}

}  // namespace dvae
