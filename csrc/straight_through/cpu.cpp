// CPU backend of the straight-through estimators: the ops on torch tensors, run in parallel over tiles of rows.

#include "straight_through/cpu.h"

#include "simd/intrinsics.h"

#include <cmath>

#include "torch/cpu_op.h"
#include "torch/parallel.h"

#define DVAE_OP straight_through
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// The row's largest column, one for each row: kernels look up what stands there.
Tensor checked_index(const Tensor& given, const Tensor& logits, int64_t dim) {
  const Tensor index = contiguous_index(given, logits, dim);
  const int64_t *begin = index_data(index), *end = begin + index.numel();
  const int64_t columns = logits.size(dim);
  STD_TORCH_CHECK(
      std::all_of(begin, end, [=](int64_t i) { return i < columns; }),
      "dvae_kernels: expected indices below the number of categories");
  return index;
}

// Calls run(layout, tensors, tiles, inverse of tau) with grad, logits and dlogits, unless tau settles the gradient.
template <class Run>
Tensor backward(
    const Tensor& grad, const Tensor& logits, const std::optional<Tensor>& tau, double tau_value, int64_t dim,
    const Run& run) {
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  Tensor dlogits = empty_like(logits, logits.scalar_type());
  if (logits.numel() == 0) return dlogits;
  const HostTemperature temperature(tau, tau_value);
  if (!temperature.valid()) return fill(dlogits, NAN);
  if (temperature.zero()) return fill(dlogits, 0);
  const ScalarType compute = compute_type(logits.scalar_type());
  with_coalesced_tensors<3>({grad, logits, dlogits}, dim, [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t) {
    RowTiles tiles = tiles_of(layout, compute == ScalarType::Double, kSplitRows);
    if (tiles.interleaved) {  // these kernels take one row after the other
      tiles.interleaved = false;
      tiles.tile_rows = static_cast<int>(std::min<int64_t>(tiles.tile_rows, layout.inner));
    }
    run(layout, t, tiles, temperature.inverse(compute));
  });
  return dlogits;
}

Tensor reinmax_bwd(
    Tensor grad, Tensor logits, Tensor index, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  const Tensor indices = checked_index(index, logits, dim);
  return backward(
      grad, logits, tau, tau_value, dim,
      [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t, const RowTiles& tiles, double inverse_tau) {
        const ReinmaxArgs args{
            buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), layout.strides[0], layout.strides[1],
            layout.strides[2], tiles, index_data(indices), inverse_tau, is_large(t[2])};
        parallel_for_tiles(args.tiles, DVAE_DISPATCH(straight_through_reinmax), args);
      });
}

Tensor gumbel_rao_bwd(
    Tensor grad, Tensor logits, Tensor key, Tensor index, std::optional<Tensor> tau, double tau_value, int64_t dim,
    int64_t draws, int64_t row_offset) {
  STD_TORCH_CHECK(draws >= 1 && draws <= INT32_MAX, "gumbel_rao: expected draws in [1, 2^31)");
  const Tensor indices = checked_index(index, logits, dim);
  return backward(
      grad, logits, tau, tau_value, dim,
      [&](const RowLayout<3>& layout, const std::array<Tensor, 3>& t, const RowTiles& tiles, double inverse_tau) {
        const GumbelRaoArgs args{
            buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), layout.strides[0], layout.strides[1],
            layout.strides[2], tiles, index_data(indices), noise_key(key, logits), row_offset, draws, inverse_tau,
            is_large(t[2])};
        parallel_for_tiles(args.tiles, DVAE_DISPATCH(straight_through_gumbel_rao), args);
      });
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("reinmax_bwd.cpp", TORCH_BOX(&dvae::reinmax_bwd));
  m.impl("gumbel_rao_bwd.cpp", TORCH_BOX(&dvae::gumbel_rao_bwd));
}
