// The categorical divergence on torch tensors, for the Device of cpu.cpp and that of cuda.cu. No kernel runs
// where there is nothing to compute.
#pragma once

#include <tuple>

#include "categorical_kl/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Device>
Tensor categorical_kl_fwd(const Tensor& logits, const std::optional<Tensor>& prior, int64_t dim) {
  const Device device(logits);
  const Tensor kl = new_rows(logits, dim, compute_type(logits.scalar_type()));
  if (logits.numel() == 0) return fill(kl, 0);
  const Tensor first = prior.value_or(logits);
  check_same_type(logits, first);
  with_coalesced_rows<2>({first, logits}, dim, 0, [&](const Rows<2>& rows) {
    device.run(CategoricalKlArgs{rows, prior.has_value(), kl.mutable_data_ptr()});
  });
  return kl;
}

template <class Device>
std::tuple<Tensor, Tensor> categorical_kl_bwd(
    const Tensor& given_grad, const Tensor& logits, const std::optional<Tensor>& prior, int64_t dim, bool prior_grad) {
  const Device device(logits);
  STD_TORCH_CHECK(prior.has_value() || !prior_grad, "categorical_kl: expected a prior where its gradient is needed");
  const ScalarType type = logits.scalar_type();
  const Tensor dlogits = empty_like(logits, type);
  const Tensor dprior = prior_grad ? empty_like(logits, type) : new_vector(logits, 0, type);
  if (logits.numel() == 0) return {dlogits, dprior};
  const Tensor grad = checked_rows(given_grad, logits, dim);
  const Tensor second = prior.value_or(logits), third = prior_grad ? dprior : logits;
  check_same_type(logits, second);
  with_coalesced_rows<4>({logits, second, third, dlogits}, dim, prior_grad ? 2 : 1, [&](const Rows<4>& rows) {
    device.run(CategoricalKlBackwardArgs{rows, prior.has_value(), prior_grad, grad.const_data_ptr()});
  });
  return {dlogits, dprior};
}

}  // namespace dvae
