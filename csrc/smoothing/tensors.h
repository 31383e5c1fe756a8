// What the ops of every device make of their arguments.
#pragma once

#include <optional>

#include "torch/tensor.h"

namespace dvae {

// The shape of the logits, in the compute type, contiguous.
inline Tensor checked_elements(const Tensor& given, const Tensor& logits, const char* name) {
  check_same_device(given, logits);
  STD_TORCH_CHECK(
      given.scalar_type() == compute_type(logits.scalar_type()) && given.sizes().equals(logits.sizes()),
      "smoothing: expected ", name, " of the shape of the logits, in the compute type");
  return torch::stable::contiguous(given);
}

// The noise, where it does not come from a key.
inline std::optional<Tensor> checked_noise(
    const std::optional<Tensor>& noise, const std::optional<Tensor>& key, const Tensor& logits) {
  STD_TORCH_CHECK(noise.has_value() != key.has_value(), "smoothing: expected either noise or a key");
  return noise.has_value() ? std::optional(checked_elements(*noise, logits, "noise")) : std::nullopt;
}

inline bool one_for_each(const std::optional<Tensor>& beta) { return beta.has_value() && beta->dim() > 0; }

// In the compute type; contiguous where there is one for each element.
inline std::optional<Tensor> checked_beta(const std::optional<Tensor>& beta, const Tensor& logits) {
  if (one_for_each(beta)) return checked_elements(*beta, logits, "beta");
  STD_TORCH_CHECK(
      !beta.has_value() || beta->scalar_type() == compute_type(logits.scalar_type()),
      "smoothing: expected beta in the compute type of the logits");
  if (beta.has_value()) check_same_device(*beta, logits);
  return beta;
}

// Memory for the gradient to beta: none, a sum of each block, or one of each element.
inline Tensor new_beta_gradient(const Tensor& logits, const std::optional<Tensor>& beta, bool needed) {
  if (!needed || !one_for_each(beta)) return new_block_sums(logits, needed);
  return torch::stable::new_empty(logits, logits.sizes(), compute_type(logits.scalar_type()));
}
inline Tensor beta_gradient(const Tensor& logits, const std::optional<Tensor>& beta, bool needed, Tensor dbeta) {
  return needed && one_for_each(beta) ? laid_out_like(logits, dbeta) : dbeta;
}

}  // namespace dvae
