// The binary concrete ops on torch tensors, for the Device of cpu.cpp and that of cuda.cu. No kernel runs
// where the host knows a temperature for which all results are alike.
#pragma once

#include <cmath>
#include <tuple>

#include "binary_concrete/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Device>
Tensor binary_concrete_fwd(
    const Tensor& logits, const Tensor& key, const std::optional<Tensor>& given_tau, double tau_value, bool hard,
    int64_t index_offset, ScalarType dtype) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), dtype);
  const Tensor sample = empty_like(logits, dtype);
  if (known_invalid(tau)) return fill(sample, NAN);
  const KeyWords words = key_words(key, logits);
  with_contiguous<2>({logits, sample}, [&](const auto& t) {
    device.run(BinaryConcreteArgs{t[0], t[1], ElementBlocks(logits.numel(), index_offset), words, tau, hard});
  });
  return sample;
}

template <class Device>
std::tuple<Tensor, Tensor> binary_concrete_bwd(
    const Tensor& grad, const Tensor& logits, const Tensor& key, const std::optional<Tensor>& given_tau,
    double tau_value, int64_t index_offset, bool tau_grad) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  const Tensor dlogits = empty_like(logits, logits.scalar_type()), partials = new_block_sums(logits, tau_grad);
  if (known_invalid(tau)) return {fill(dlogits, NAN), fill(partials, NAN)};
  if (known_zero(tau)) return {fill(dlogits, 0), fill(partials, 0)};
  const KeyWords words = key_words(key, logits);
  with_contiguous<3>({grad, logits, dlogits}, [&](const auto& t) {
    const ElementBlocks blocks(logits.numel(), index_offset);
    device.run(BinaryConcreteBackwardArgs{t[0], t[1], t[2], blocks, words, tau, optional_buffer(partials)});
  });
  return {dlogits, partials};
}

template <class Device>
Tensor binary_concrete_log_prob_fwd(
    const Tensor& y, const Tensor& logits, const std::optional<Tensor>& given_tau, double tau_value) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), y.scalar_type());
  const Tensor log_prob = empty_like(y, compute_type(y.scalar_type()));
  if (known_invalid(tau) || known_zero(tau)) return fill(log_prob, NAN);
  with_contiguous<3>({y, logits, log_prob}, [&](const auto& t) {
    device.run(BinaryConcreteLogProbArgs{t[0], t[1], t[2], ElementBlocks(y.numel(), 0), tau});
  });
  return log_prob;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> binary_concrete_log_prob_bwd(
    const Tensor& grad, const Tensor& y, const Tensor& logits, const std::optional<Tensor>& given_tau,
    double tau_value, bool tau_grad) {
  const Device device(logits);
  const ScalarArgument tau = device.scalar(given_tau, tau_value, logits);
  check_sample_type(logits.scalar_type(), y.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(y.scalar_type()),
      "binary_concrete_log_prob: expected grad of the log density's dtype");
  const Tensor dy = empty_like(y, y.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  const Tensor partials = new_block_sums(y, tau_grad);
  if (known_invalid(tau) || known_zero(tau)) return {fill(dy, NAN), fill(dlogits, NAN), fill(partials, NAN)};
  with_contiguous<5, 2>({grad, y, logits, dy, dlogits}, [&](const auto& t) {
    const ElementBlocks blocks(y.numel(), 0);
    device.run(
        BinaryConcreteLogProbBackwardArgs{t[0], t[1], t[2], t[3], t[4], blocks, tau, optional_buffer(partials)});
  });
  return {dy, dlogits, partials};
}

}  // namespace dvae
