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

// The CPU as the device of an op. cpu.cpp adds run(args), which runs the kernel of these arguments.
struct CpuDevice {
  KeepSubnormals keep_subnormals;

  explicit CpuDevice(const Tensor&) {}

  // A number, or the value of a tensor of one, which on the CPU is at hand.
  static ScalarArgument scalar(const std::optional<Tensor>& tensor, double value, const Tensor& like) {
    if (!tensor.has_value()) return {nullptr, value};
    check_same_device(*tensor, like);
    STD_TORCH_CHECK(
        tensor->numel() == 1 &&
            (tensor->scalar_type() == ScalarType::Double || tensor->scalar_type() == ScalarType::Float),
        "dvae_kernels: expected tau to be one float32 or float64 value");
    const void* data = tensor->const_data_ptr();
    return {nullptr, tensor->scalar_type() == ScalarType::Double ? *static_cast<const double*>(data)
                                                                 : *static_cast<const float*>(data)};
  }
};

// What a kernel can do: split a row or only take whole ones; and take interleaved rows, unless it says not.
enum RowTiling { kSplitRows, kWholeRows, kNeverInterleaved };

template <int N>
RowTiles tiles_of(const RowLayout<N>& layout, bool doubles, RowTiling tiling, bool stream) {
  constexpr int line = 16;  // floats in a cache line, and rows that are handled together
  // Narrow rows would leave most of a vector empty; strided ones would be gathered. Both go side by side, if a tile of
  // them stays in the second-level cache.
  constexpr int64_t narrow = 48, longest = 2048;
  bool strided = false;
  for (const RowStrides& s : layout.strides) strided = strided || s.column != 1;
  const bool interleaved = !doubles && tiling != kNeverInterleaved && layout.columns <= (strided ? longest : narrow);
  RowTiles tiles{
      layout.outer, layout.columns, layout.inner, float_lanes(active_target), interleaved, 1, parallel_for_ranges,
      doubles, stream};
  if (interleaved) return tiles;
  tiles.tile_rows = static_cast<int>(strided ? std::min<int64_t>(line, layout.inner) : 1);
  if (tiling != kWholeRows) tiles.ranges = layout.columns / kRowRange;
  return tiles;
}

// kernel(args, tiles, begin, end) over all tiles of args.rows. Results must not depend on how the tiles are
// shared out. With fewer tiles than threads, and rows long enough to split, the tiles run in sequence and the
// kernel parallelises inside each row.
template <class Args>
void parallel_for_tiles(
    void (*kernel)(const Args&, const RowTiles&, int64_t, int64_t), const Args& args, RowTiling tiling = kSplitRows) {
  const auto& [layout, tensors] = args.rows;
  const bool doubles = tensors[0].type == Storage::float64;
  const RowTiles tiles =
      tiles_of(layout, doubles, tiling, is_large(layout.rows() * layout.columns, tensors.back().type));
  if (tiles.count() < torch::stable::get_num_threads() && tiles.ranges > tiles.count()) {
    return kernel(args, tiles, 0, tiles.count());
  }
  parallel_for(tiles.count(), tiles.columns * tiles.tile_rows, [&](int64_t begin, int64_t end) {
    kernel(args, tiles, begin, end);
  });
}

}  // namespace dvae
