// CPU backend of Gumbel-softmax: the ops on torch tensors, run in parallel over tiles of rows.

#include "gumbel_softmax/cpu.h"

#include "simd/intrinsics.h"

#include <cmath>
#include <tuple>

#include "torch/cpu_op.h"
#include "torch/parallel.h"

#define DVAE_OP gumbel_softmax
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// The hard sample, and its indices where there is room for them.
void fill_hard(const Tensor& logits, const Tensor& key, int64_t dim, int64_t row_offset, const Tensor& sample,
               int64_t* indices) {
  const ScalarType compute = compute_type(logits.scalar_type());
  with_coalesced_rows<2>({logits, sample}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    const HardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), layout.strides[0], layout.strides[1], tiles_of(layout, compute, true),
        noise_key(key, logits), row_offset, is_large(t[1]), indices};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_hard), args);
  });
}

Tensor argmax(Tensor logits, Tensor key, int64_t dim, int64_t row_offset) {
  Tensor indices = new_rows(logits, dim, ScalarType::Long);
  if (logits.numel() == 0) return fill(indices, kNone);
  const ScalarType compute = compute_type(logits.scalar_type());
  with_coalesced_rows<1, 0>({logits}, dim, [&](const RowLayout<1>& layout, const std::array<Tensor, 1>& t) {
    const ArgmaxArgs args{
        buffer_of(t[0]), layout.strides[0], tiles_of(layout, compute, true), noise_key(key, logits), row_offset,
        index_data(indices)};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_argmax), args);
  });
  return indices;
}

std::tuple<Tensor, Tensor> onehot(Tensor logits, Tensor key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype), indices = new_rows(logits, dim, ScalarType::Long);
  if (sample.numel() == 0) return {sample, fill(indices, kNone)};
  fill_hard(logits, key, dim, row_offset, sample, index_data(indices));
  return {sample, indices};
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype);
  if (sample.numel() == 0) return sample;
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid()) return fill(sample, NAN);
  if (hard || temperature.zero()) {
    fill_hard(logits, key, dim, row_offset, sample, nullptr);
    return sample;
  }
  const ScalarType compute = compute_type(logits.scalar_type());
  with_coalesced_rows<2>({logits, sample}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    const SoftArgs args{
        buffer_of(t[0]), buffer_of(t[1]), layout.strides[0], layout.strides[1], tiles_of(layout, compute, true),
        noise_key(key, logits), row_offset, temperature.inverse(compute), is_large(t[1])};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_soft), args);
  });
  return sample;
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  check_sample_type(dtype, y.scalar_type());
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gumbel_softmax: expected grad of the sample's dtype");
  Tensor dlogits = empty_like(y, dtype);
  if (y.numel() == 0) return dlogits;
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid()) return fill(dlogits, NAN);
  if (temperature.zero()) return fill(dlogits, 0);
  const ScalarType compute = compute_type(y.scalar_type());
  with_coalesced_rows<3>({grad, y, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    const BackwardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), layout.strides[0], layout.strides[1], layout.strides[2],
        tiles_of(layout, compute, false), temperature.inverse(compute), is_large(t[2])};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_backward), args);
  });
  return dlogits;
}

std::tuple<Tensor, Tensor> recompute_bwd(Tensor grad, Tensor logits, std::optional<Tensor> key,
                                         std::optional<Tensor> tau, double tau_value, int64_t dim, int64_t row_offset,
                                         bool tau_grad) {
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dlogits, dtau_rows};
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid()) return {fill(dlogits, NAN), fill(dtau_rows, NAN)};
  if (temperature.zero()) return {fill(dlogits, 0), fill(dtau_rows, 0)};
  const ScalarType compute = compute_type(logits.scalar_type());
  with_coalesced_rows<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    const RecomputeBackwardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), layout.strides[0], layout.strides[1], layout.strides[2],
        tiles_of(layout, compute, true), optional_noise_key(key, logits), row_offset, temperature.inverse(compute),
        is_large(t[2]), optional_buffer(dtau_rows)};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_recompute_backward), args);
  });
  return {dlogits, dtau_rows};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gumbel_argmax.cpp", TORCH_BOX(&dvae::argmax));
  m.impl("gumbel_onehot.cpp", TORCH_BOX(&dvae::onehot));
  m.impl("gumbel_softmax_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("gumbel_softmax_recompute_bwd.cpp", TORCH_BOX(&dvae::recompute_bwd));
}
