// The smoothing ops on torch tensors, for the Device of cpu.cpp and that of cuda.cu, which finds a kind by
// its name too. No kernel runs where the host knows that beta is invalid and all results are NaN.
#pragma once

#include <cmath>
#include <optional>
#include <tuple>

#include "smoothing/arguments.h"
#include "torch/tensor.h"

namespace dvae {

template <class Device>
SmoothingKind checked_kind(const Name& name) {
  const SmoothingKind kind = Device::kind_of(name.text);
  STD_TORCH_CHECK(kind.exists, "smoothing: unknown kind ", name.text);
  return kind;
}

// `given` in contiguous memory.
inline Tensor checked_elements(const Tensor& given, const Tensor& logits, const char* name) {
  check_same_device(given, logits);
  STD_TORCH_CHECK(
      given.scalar_type() == compute_type(logits.scalar_type()) && given.sizes().equals(logits.sizes()),
      "smoothing: expected ", name, " of the shape of the logits, in the compute type");
  return torch::stable::contiguous(given);
}

// The noise that replaces a key's.
inline std::optional<Tensor> checked_noise(
    const std::optional<Tensor>& noise, const std::optional<Tensor>& key, const Tensor& logits) {
  STD_TORCH_CHECK(noise.has_value() != key.has_value(), "smoothing: expected either noise or a key");
  return noise.has_value() ? std::optional(checked_elements(*noise, logits, "noise")) : std::nullopt;
}

// beta as kernels take it, and its gradient's memory: nothing, one sum per block, or one value per element.
class BetaTensor {
 public:
  template <class Device>
  BetaTensor(const Device& device, const std::optional<Tensor>& beta, double value, const Tensor& logits) {
    const ScalarType compute = compute_type(logits.scalar_type());
    if (beta.has_value() && beta->dim() > 0) {
      elements_ = checked_elements(*beta, logits, "beta");
      one_ = {nullptr, 1};
      return;
    }
    STD_TORCH_CHECK(
        !beta.has_value() || beta->scalar_type() == compute,
        "smoothing: expected beta in the compute type of the logits");
    one_ = device.scalar(beta, value, logits);
    if (compute == ScalarType::Float) one_.value = static_cast<float>(one_.value);
  }

  SmoothingBeta argument() const { return {one_, optional_buffer(elements_)}; }
  bool known_invalid() const { return dvae::known_invalid(one_) || known_zero(one_); }

  Tensor new_gradient(const Tensor& logits, bool needed) const {
    if (!needed || !elements_.has_value()) return new_block_sums(logits, needed);
    return torch::stable::new_empty(logits, logits.sizes(), compute_type(logits.scalar_type()));
  }
  Tensor laid_out(const Tensor& logits, const Tensor& dbeta, bool needed) const {
    return needed && elements_.has_value() ? laid_out_like(logits, dbeta) : dbeta;
  }

 private:
  ScalarArgument one_;
  std::optional<Tensor> elements_;
};

template <class Device>
Tensor smoothing_fwd(
    const Tensor& logits, const std::optional<Tensor>& given_noise, const std::optional<Tensor>& key,
    const std::optional<Tensor>& given_beta, double beta_value, const Name& kind_name, int64_t index_offset,
    ScalarType dtype) {
  const Device device(logits);
  const BetaTensor beta(device, given_beta, beta_value, logits);
  const SmoothingKind kind = checked_kind<Device>(kind_name);
  check_sample_type(logits.scalar_type(), dtype);
  const auto noise = checked_noise(given_noise, key, logits);
  const KeyWords words = key_words(key, logits);
  const Tensor zeta = empty_like(logits, dtype);
  if (beta.known_invalid()) return fill(zeta, NAN);
  with_contiguous<2>({logits, zeta}, [&](const auto& t) {
    const ElementBlocks blocks(logits.numel(), index_offset);
    device.run(SmoothingArgs{kind.name, t[0], t[1], blocks, words, optional_buffer(noise), beta.argument()});
  });
  return zeta;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> smoothing_bwd(
    const Tensor& grad, const Tensor& logits, const std::optional<Tensor>& given_noise,
    const std::optional<Tensor>& key, const std::optional<Tensor>& given_beta, double beta_value,
    const Name& kind_name, int64_t index_offset, bool beta_grad, bool noise_grad) {
  const Device device(logits);
  const BetaTensor beta(device, given_beta, beta_value, logits);
  const SmoothingKind kind = checked_kind<Device>(kind_name);
  STD_TORCH_CHECK(
      !noise_grad || kind.noise_has_gradient, "smoothing: ", kind_name.text, " has no gradient to noise");
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  const auto noise = checked_noise(given_noise, key, logits);
  const KeyWords words = key_words(key, logits);
  const ScalarType compute = compute_type(logits.scalar_type());
  const Tensor dlogits = empty_like(logits, logits.scalar_type()), dbeta = beta.new_gradient(logits, beta_grad);
  const Tensor dnoise =
      noise_grad ? torch::stable::new_empty(logits, logits.sizes(), compute) : new_vector(logits, 0, compute);
  if (beta.known_invalid()) {
    fill(dlogits, NAN), fill(dbeta, NAN), fill(dnoise, NAN);
  } else {
    with_contiguous<3>({grad, logits, dlogits}, [&](const auto& t) {
      device.run(SmoothingBackwardArgs{
          kind.name, t[0], t[1], t[2], ElementBlocks(logits.numel(), index_offset), words, optional_buffer(noise),
          beta.argument(), optional_buffer(dbeta), optional_buffer(dnoise)});
    });
  }
  return {dlogits, beta.laid_out(logits, dbeta, beta_grad), noise_grad ? laid_out_like(logits, dnoise) : dnoise};
}

template <class Device>
Tensor smoothing_log_prob_fwd(
    const Tensor& zeta, const Tensor& logits, const std::optional<Tensor>& given_beta, double beta_value,
    const Name& kind_name) {
  const Device device(logits);
  const BetaTensor beta(device, given_beta, beta_value, logits);
  const SmoothingKind kind = checked_kind<Device>(kind_name);
  check_sample_type(logits.scalar_type(), zeta.scalar_type());
  const Tensor log_prob = empty_like(zeta, compute_type(zeta.scalar_type()));
  if (beta.known_invalid()) return fill(log_prob, NAN);
  with_contiguous<3>({zeta, logits, log_prob}, [&](const auto& t) {
    device.run(SmoothingLogProbArgs{kind.name, t[0], t[1], t[2], ElementBlocks(zeta.numel(), 0), beta.argument()});
  });
  return log_prob;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> smoothing_log_prob_bwd(
    const Tensor& grad, const Tensor& zeta, const Tensor& logits, const std::optional<Tensor>& given_beta,
    double beta_value, const Name& kind_name, bool beta_grad) {
  const Device device(logits);
  const BetaTensor beta(device, given_beta, beta_value, logits);
  const SmoothingKind kind = checked_kind<Device>(kind_name);
  check_sample_type(logits.scalar_type(), zeta.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(zeta.scalar_type()),
      "smoothing_log_prob: expected grad of the log density's dtype");
  const Tensor dzeta = empty_like(zeta, zeta.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  const Tensor dbeta = beta.new_gradient(logits, beta_grad);
  if (beta.known_invalid()) {
    fill(dzeta, NAN), fill(dlogits, NAN), fill(dbeta, NAN);
  } else {
    with_contiguous<5, 2>({grad, zeta, logits, dzeta, dlogits}, [&](const auto& t) {
      device.run(SmoothingLogProbBackwardArgs{
          kind.name, t[0], t[1], t[2], t[3], t[4], ElementBlocks(zeta.numel(), 0), beta.argument(),
          optional_buffer(dbeta)});
    });
  }
  return {dzeta, dlogits, beta.laid_out(logits, dbeta, beta_grad)};
}

}  // namespace dvae
