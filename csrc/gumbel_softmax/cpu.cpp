// CPU backend of Gumbel-softmax: the ops on torch tensors, run in parallel over tiles of rows.

#include "gumbel_softmax/cpu.h"

#include "common/intrinsics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "common/parallel.h"
#include "common/targets.h"
#include "common/tensor.h"

#define DVAE_KERNELS "gumbel_softmax/cpu_kernels.h"
#include "common/for_each_target.h"

namespace dvae {
namespace {

// tau as kernels use it. A tensor's value is looked at here, where it is at hand.
struct Temperature {
  double value;

  Temperature(const std::optional<Tensor>& tau, double tau_value) : value(tau_value) {
    if (!tau.has_value()) return;
    value = tau->scalar_type() == ScalarType::Double ? *static_cast<const double*>(tau->const_data_ptr())
                                                     : *static_cast<const float*>(tau->const_data_ptr());
  }
  bool zero() const { return value == 0; }
  bool valid() const { return value >= 0 && value < std::numeric_limits<double>::infinity(); }
  // Finite in the compute type: times an exponent of zero it must stay zero.
  double inverse(ScalarType compute) const {
    const double limit = compute == ScalarType::Double ? std::numeric_limits<double>::max()
                                                       : double{std::numeric_limits<float>::max()};
    return std::min(1 / value, limit);
  }
};

NoiseKey noise_key(const Tensor& key) {
  const auto* words = static_cast<const int64_t*>(key.const_data_ptr());
  return {static_cast<uint64_t>(words[0]), static_cast<uint32_t>(words[key.stride(0)])};
}

template <int N>
RowTiles tiles_of(const RowLayout<N>& layout, ScalarType compute, bool splits_rows) {
  constexpr int line = 16;  // floats in a cache line, and rows that are handled together
  // Narrow rows would leave most of a vector empty; strided ones would be gathered. Both go side by side, if a tile of
  // them stays in the second-level cache.
  constexpr int64_t narrow = 48, longest = 2048;
  bool strided = false;
  for (const RowStrides& s : layout.strides) strided = strided || s.category != 1;
  const bool columns = compute == ScalarType::Float && layout.categories <= (strided ? longest : narrow);
  if (columns) return {layout.outer, layout.categories, layout.inner, DVAE_DISPATCH(F32::lanes), true, 1};
  const auto rows = static_cast<int>(strided ? std::min<int64_t>(line, layout.inner) : 1);
  const int64_t ranges = splits_rows ? layout.categories / kRowRange : 1;
  return {layout.outer, layout.categories, layout.inner, rows, false, ranges};
}

Tensor fill(Tensor tensor, double value) { return torch::stable::fill_(tensor, value); }

// Outputs beyond the last-level cache are written past it: nothing there would be read before it is evicted.
bool is_large(const Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size()) >= int64_t{32} << 20;
}

Buffer optional_buffer(const Tensor& tensor) {
  return tensor.numel() > 0 ? buffer_of(tensor) : Buffer{nullptr, Storage::float32};
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  check_sample_type(logits.scalar_type(), dtype);
  Tensor sample = empty_like(logits, dtype);
  if (sample.numel() == 0) return sample;
  const Temperature temperature(tau, tau_value);
  if (!temperature.valid()) return fill(sample, NAN);
  const ScalarType compute = compute_type(logits.scalar_type());
  for_collapsed_rows<2>({logits, sample}, dim, [&](const RowLayout<2>& layout, const std::array<Tensor, 2>& t) {
    const SampleArgs args{
        buffer_of(t[0]), buffer_of(t[1]), layout.strides[0], layout.strides[1], tiles_of(layout, compute, true),
        noise_key(key), row_offset, temperature.inverse(compute), hard || temperature.zero(), is_large(t[1])};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_sample), args);
  });
  return sample;
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  check_sample_type(dtype, y.scalar_type());
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gumbel_softmax: expected grad of the sample's dtype");
  Tensor dlogits = empty_like(y, dtype);
  if (y.numel() == 0) return dlogits;
  const Temperature temperature(tau, tau_value);
  if (!temperature.valid()) return fill(dlogits, NAN);
  if (temperature.zero()) return fill(dlogits, 0);
  const ScalarType compute = compute_type(y.scalar_type());
  for_collapsed_rows<3>({grad, y, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    const BackwardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), layout.strides[0], layout.strides[1], layout.strides[2],
        tiles_of(layout, compute, false), temperature.inverse(compute), is_large(t[2])};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_backward), args);
  });
  return dlogits;
}

std::tuple<Tensor, Tensor> recompute_bwd(Tensor grad, Tensor logits, Tensor key, std::optional<Tensor> tau,
                                         double tau_value, int64_t dim, int64_t row_offset, bool tau_grad) {
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type()), dtau_rows = new_tau_rows(logits, dim, tau_grad);
  if (logits.numel() == 0) return {dlogits, dtau_rows};
  const Temperature temperature(tau, tau_value);
  if (!temperature.valid()) return {fill(dlogits, NAN), fill(dtau_rows, NAN)};
  if (temperature.zero()) return {fill(dlogits, 0), fill(dtau_rows, 0)};
  const ScalarType compute = compute_type(logits.scalar_type());
  for_collapsed_rows<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    const RecomputeBackwardArgs args{
        buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), layout.strides[0], layout.strides[1], layout.strides[2],
        tiles_of(layout, compute, true), noise_key(key), row_offset, temperature.inverse(compute), is_large(t[2]),
        optional_buffer(dtau_rows)};
    parallel_for_tiles(args.tiles, DVAE_DISPATCH(gumbel_softmax_recompute_backward), args);
  });
  return {dlogits, dtau_rows};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gumbel_softmax_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("gumbel_softmax_recompute_bwd.cpp", TORCH_BOX(&dvae::recompute_bwd));
}
