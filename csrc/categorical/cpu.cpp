// CPU backend of the categorical divergence and the concrete density: the ops on torch tensors.

#include "categorical/cpu.h"

#include "simd/intrinsics.h"

#include <cmath>
#include <tuple>

#include "torch/cpu_op.h"
#include "torch/parallel.h"

#define DVAE_OP categorical
#include "simd/foreach_target.h"

namespace dvae {
namespace {

Buffer buffer_if(bool present, const Tensor& tensor) { return present ? buffer_of(tensor) : Buffer{}; }

Tensor kl_fwd(Tensor logits, std::optional<Tensor> prior, int64_t dim) {
  const ScalarType compute = compute_type(logits.scalar_type());
  Tensor kl = new_rows(logits, dim, compute);
  if (logits.numel() == 0) return fill(kl, 0);
  const Tensor second = prior.value_or(logits);  // in the place of a prior
  check_same_type(logits, second);
  with_coalesced_tensors<2, 0>({logits, second}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    const KlArgs args{
        buffer_of(t[0]), buffer_if(prior.has_value(), t[1]), layout.strides[0], layout.strides[1],
        tiles_of(layout, compute == ScalarType::Double, kSplitRows), kl.data_ptr()};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(categorical_kl_kernel), args);
  });
  return kl;
}

std::tuple<Tensor, Tensor> kl_bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> prior, int64_t dim, bool prior_grad) {
  STD_TORCH_CHECK(prior.has_value() || !prior_grad, "categorical_kl: expected a prior where its gradient is needed");
  const ScalarType type = logits.scalar_type(), compute = compute_type(type);
  Tensor dlogits = empty_like(logits, type);
  Tensor dprior = prior_grad ? empty_like(logits, type) : new_vector(logits, 0, type);
  if (logits.numel() == 0) return {dlogits, dprior};
  grad = checked_rows(grad, logits, dim);
  const Tensor second = prior.value_or(logits), third = prior_grad ? dprior : logits;
  check_same_type(logits, second);
  const auto run = [&](const RowLayout<4>& layout, const std::array<Tensor, 4>& t) {
    const KlBackwardArgs args{
        grad.const_data_ptr(), buffer_of(t[0]), buffer_if(prior.has_value(), t[1]), buffer_of(t[3]),
        buffer_if(prior_grad, t[2]), layout.strides[0], layout.strides[1], layout.strides[3], layout.strides[2],
        tiles_of(layout, compute == ScalarType::Double, kSplitRows), is_large(t[3])};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(categorical_kl_backward_kernel), args);
  };
  const std::array<Tensor, 4> tensors{logits, second, third, dlogits};
  prior_grad ? with_coalesced_tensors<4, 2>(tensors, dim, run) : with_coalesced_tensors<4, 1>(tensors, dim, run);
  return {dlogits, dprior};
}

bool positive(const HostTemperature& tau) { return tau.valid() && !tau.zero(); }

std::tuple<Tensor, Tensor> log_prob_fwd(
    Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  check_sample_type(logits.scalar_type(), y.scalar_type());
  const ScalarType compute = compute_type(logits.scalar_type());
  Tensor density = new_rows(logits, dim, compute), count = new_rows(logits, dim, compute);
  if (logits.numel() == 0) return {fill(density, 0), fill(count, 0)};
  const HostTemperature temperature(tau, tau_value);
  const double value = positive(temperature) ? temperature.value : NAN;
  with_coalesced_tensors<2, 0>({y, logits}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    const LogProbArgs args{
        buffer_of(t[0]), buffer_of(t[1]), layout.strides[0], layout.strides[1], tiles_of(layout, compute == ScalarType::Double, kSplitRows),
        value, density.data_ptr(), count.data_ptr()};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(log_prob_kernel), args);
  });
  return {density, count};
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(
    Tensor grad, Tensor y, Tensor logits, std::optional<Tensor> tau, double tau_value, int64_t dim, bool tau_grad) {
  check_sample_type(logits.scalar_type(), y.scalar_type());
  const ScalarType compute = compute_type(logits.scalar_type());
  Tensor dy = empty_like(y, y.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  Tensor dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dy, dlogits, dtau_rows};
  grad = checked_rows(grad, logits, dim);
  const HostTemperature temperature(tau, tau_value);
  const double value = positive(temperature) ? temperature.value : NAN;
  with_coalesced_tensors<4, 2>(
      {y, logits, dy, dlogits}, dim, [&](const RowLayout<4>& layout, const std::array<Tensor, 4>& t) {
        const LogProbBackwardArgs args{
            grad.const_data_ptr(), buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3]),
            layout.strides[0], layout.strides[1], layout.strides[2], layout.strides[3],
            tiles_of(layout, compute == ScalarType::Double, kSplitRows), value, tau_grad ? dtau_rows.data_ptr() : nullptr, is_large(t[2])};
        parallel_for_tiles(args.tiles, DVAE_DISPATCH(log_prob_backward_kernel), args);
      });
  return {dy, dlogits, dtau_rows};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("categorical_kl_fwd.cpp", TORCH_BOX(&dvae::kl_fwd));
  m.impl("categorical_kl_bwd.cpp", TORCH_BOX(&dvae::kl_bwd));
  m.impl("gumbel_softmax_log_prob_fwd.cpp", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("gumbel_softmax_log_prob_bwd.cpp", TORCH_BOX(&dvae::log_prob_bwd));
}
