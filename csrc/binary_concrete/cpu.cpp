// CPU backend of the binary concrete distribution: the ops on torch tensors, in parallel over blocks of elements.

#include "binary_concrete/cpu.h"

#include "simd/intrinsics.h"

#include <cmath>
#include <tuple>
#include <type_traits>

#include "torch/cpu_op.h"
#include "torch/parallel.h"

#define DVAE_OP binary_concrete
#include "simd/foreach_target.h"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, bool hard, int64_t index_offset,
           ScalarType dtype) {
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype);
  if (sample.numel() == 0) return sample;
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid()) return fill(sample, NAN);
  with_contiguous<2>({logits, sample}, [&](const std::array<Tensor, 2>& t) {
    const BinaryConcreteArgs args{
        buffer_of(t[0]), buffer_of(t[1]), ElementBlocks(logits.numel(), index_offset), noise_key(key, logits),
        temperature.inverse(compute_type(logits.scalar_type())), hard || temperature.zero(), is_large(t[1])};
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_sample), args);
  });
  return sample;
}

std::tuple<Tensor, Tensor> bwd(Tensor grad, Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value,
                               int64_t index_offset, bool tau_grad) {
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), parts = new_block_sums(logits, tau_grad);
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid()) return {fill(dlogits, NAN), fill(parts, NAN)};
  if (temperature.zero()) return {fill(dlogits, 0), fill(parts, 0)};
  with_contiguous<3>({grad, logits, dlogits}, [&](const std::array<Tensor, 3>& t) {
    const BinaryConcreteBackwardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), ElementBlocks(logits.numel(), index_offset),
        noise_key(key, logits), temperature.inverse(compute_type(logits.scalar_type())), is_large(t[2]),
        tau_grad ? parts.mutable_data_ptr() : nullptr};
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_backward), args);
  });
  return {dlogits, parts};
}

Tensor log_prob_fwd(Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value) {
  check_sample_type(logits.scalar_type(), y.scalar_type());
  Tensor log_prob = empty_like(y, compute_type(y.scalar_type()));
  if (y.numel() == 0) return log_prob;
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid() || temperature.zero()) return fill(log_prob, NAN);
  with_contiguous<3>({y, logits, log_prob}, [&](const std::array<Tensor, 3>& t) {
    const BinaryConcreteLogProbArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), ElementBlocks(y.numel(), 0), temperature.value,
        is_large(t[2])};
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_log_prob), args);
  });
  return log_prob;
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau,
                                                double tau_value, bool tau_grad) {
  check_sample_type(logits.scalar_type(), y.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(y.scalar_type()),
      "binary_concrete_log_prob: expected grad of the log density's dtype");
  Tensor dy = empty_like(y, y.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  Tensor parts = new_block_sums(y, tau_grad);
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid() || temperature.zero()) return {fill(dy, NAN), fill(dlogits, NAN), fill(parts, NAN)};
  with_contiguous<5, 2>({grad, y, logits, dy, dlogits}, [&](const std::array<Tensor, 5>& t) {
    const BinaryConcreteLogProbBackwardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3]), buffer_of(t[4]),
        ElementBlocks(y.numel(), 0), temperature.value, is_large(t[3]), tau_grad ? parts.mutable_data_ptr() : nullptr};
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_log_prob_backward), args);
  });
  return {dy, dlogits, parts};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("binary_concrete_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("binary_concrete_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("binary_concrete_log_prob_fwd.cpp", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("binary_concrete_log_prob_bwd.cpp", TORCH_BOX(&dvae::log_prob_bwd));
}
