// Checks and memory of the categorical divergence, for CPU and CUDA. Each function calls run(args) with the arguments of the
// kernel, unless there is nothing to compute.
#pragma once

#include <tuple>

#include "categorical_kl/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Run>
Tensor run_categorical_kl_fwd(
    const Tensor& logits, const std::optional<Tensor>& prior, int64_t dim, const Run& run) {
  const Tensor kl = new_rows(logits, dim, compute_type(logits.scalar_type()));
  if (logits.numel() == 0) return fill(kl, 0);
  const Tensor first = prior.value_or(logits);
  check_same_type(logits, first);
  with_coalesced_rows<2>({first, logits}, dim, 0, [&](const Rows<2>& rows) {
    run(CategoricalKlArgs{rows, prior.has_value(), kl.mutable_data_ptr()});
  });
  return kl;
}

template <class Run>
std::tuple<Tensor, Tensor> run_categorical_kl_bwd(
    const Tensor& given_grad, const Tensor& logits, const std::optional<Tensor>& prior, int64_t dim, bool prior_grad,
    const Run& run) {
  STD_TORCH_CHECK(prior.has_value() || !prior_grad, "categorical_kl: expected a prior where its gradient is needed");
  const ScalarType type = logits.scalar_type();
  const Tensor dlogits = empty_like(logits, type);
  const Tensor dprior = prior_grad ? empty_like(logits, type) : new_vector(logits, 0, type);
  if (logits.numel() == 0) return {dlogits, dprior};
  const Tensor grad = checked_rows(given_grad, logits, dim);
  const Tensor second = prior.value_or(logits), third = prior_grad ? dprior : logits;
  check_same_type(logits, second);
  with_coalesced_rows<4>({logits, second, third, dlogits}, dim, prior_grad ? 2 : 1, [&](const Rows<4>& rows) {
    run(CategoricalKlBackwardArgs{rows, prior.has_value(), prior_grad, grad.const_data_ptr()});
  });
  return {dlogits, dprior};
}

}  // namespace dvae
