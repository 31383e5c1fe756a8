// Arguments of the CPU kernels, the same for every target.
#pragma once

#include <optional>

#include "common/noise.h"
#include "common/rows.h"

namespace dvae {

struct SoftArgs {
  Buffer logits, sample;
  RowStrides logits_strides, sample_strides;
  RowTiles tiles;
  NoiseKey noise;
  int64_t row_offset;
  double inverse_tau;
  bool stream;  // the sample is too large to stay in cache
};

struct ArgmaxArgs {
  Buffer logits;
  RowStrides logits_strides;
  RowTiles tiles;
  NoiseKey noise;
  int64_t row_offset;
  int64_t* indices;  // of the rows
};

struct HardArgs {
  Buffer logits, sample;
  RowStrides logits_strides, sample_strides;
  RowTiles tiles;
  NoiseKey noise;
  int64_t row_offset;
  bool stream;
  int64_t* indices;  // of the rows, or null
};

struct BackwardArgs {
  Buffer grad, sample, dlogits;
  RowStrides grad_strides, sample_strides, dlogits_strides;
  RowTiles tiles;
  double inverse_tau;
  bool stream;
};

struct RecomputeBackwardArgs {
  Buffer grad, logits, dlogits;
  RowStrides grad_strides, logits_strides, dlogits_strides;
  RowTiles tiles;
  std::optional<NoiseKey> noise;
  int64_t row_offset;
  double inverse_tau;
  bool stream;
  Buffer dtau_rows;  // null data where the gradient to tau is not needed
};

}  // namespace dvae
