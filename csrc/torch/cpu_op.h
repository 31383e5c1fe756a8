// From torch tensors to kernel arguments, for the CPU ops.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "common/noise.h"
#include "common/rows.h"
#include "simd/targets.h"
#include "torch/parallel.h"
#include "torch/tensor.h"

namespace dvae {

// tau as kernels use it. A tensor's value is looked at here, where it is at hand.
struct HostTemperature {
  double value;

  HostTemperature(const std::optional<Tensor>& tau, double tau_value) : value(tau_value) {
    if (!tau.has_value()) return;
    STD_TORCH_CHECK(
        tau->numel() == 1 && (tau->scalar_type() == ScalarType::Double || tau->scalar_type() == ScalarType::Float),
        "dvae_kernels: expected tau to be one float32 or float64 value");
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

// A number, or the value of a tensor of one.
inline ScalarArgument host_scalar(const std::optional<Tensor>& tensor, double value, const Tensor& like) {
  if (tensor.has_value()) check_same_device(*tensor, like);
  return {nullptr, HostTemperature(tensor, value).value};
}

inline NoiseKey noise_key(const Tensor& key, const Tensor& like) { return key_words(key, like).read(); }

inline std::optional<NoiseKey> optional_noise_key(const std::optional<Tensor>& key, const Tensor& like) {
  return key.has_value() ? std::optional(noise_key(*key, like)) : std::nullopt;
}

// Whether a kernel can split a row.
enum RowSplit { kSplitRows, kWholeRows };

template <int N>
RowTiles tiles_of(const RowLayout<N>& layout, bool doubles, RowSplit split, bool stream = false) {
  constexpr int line = 16;  // floats in a cache line, and rows that are handled together
  // Narrow rows would leave most of a vector empty; strided ones would be gathered. Both go side by side, if a tile of
  // them stays in the second-level cache.
  constexpr int64_t narrow = 48, longest = 2048;
  bool strided = false;
  for (const RowStrides& s : layout.strides) strided = strided || s.column != 1;
  const bool interleaved = !doubles && layout.columns <= (strided ? longest : narrow);
  RowTiles tiles{
      layout.outer, layout.columns, layout.inner, float_lanes(active_target), interleaved, 1, parallel_for_ranges,
      doubles, stream};
  if (interleaved) return tiles;
  tiles.tile_rows = static_cast<int>(strided ? std::min<int64_t>(line, layout.inner) : 1);
  if (split == kSplitRows) tiles.ranges = layout.columns / kRowRange;
  return tiles;
}

// The function that runs kernel(args, tiles, begin, end) over all tiles of args.rows. Results must not depend on how the
// tiles are shared out. With fewer tiles than threads, and rows long enough to split, the tiles run in sequence and the
// kernel parallelises inside each row.
template <class Args>
auto over_tiles(void (*kernel)(const Args&, const RowTiles&, int64_t, int64_t), RowSplit split = kSplitRows) {
  return [kernel, split](const Args& args) {
    const auto& [layout, tensors] = args.rows;
    const bool doubles = tensors[0].type == Storage::float64;
    const RowTiles tiles =
        tiles_of(layout, doubles, split, is_large(layout.rows() * layout.columns, tensors.back().type));
    if (tiles.count() < torch::stable::get_num_threads() && tiles.ranges > tiles.count()) {
      return kernel(args, tiles, 0, tiles.count());
    }
    parallel_for(tiles.count(), tiles.columns * tiles.tile_rows, [&](int64_t begin, int64_t end) {
      kernel(args, tiles, begin, end);
    });
  };
}

inline bool is_large(const Tensor& tensor) { return is_large(tensor.numel(), buffer_of(tensor).type); }

}  // namespace dvae
