// Arguments of the CPU kernels, the same for every target.
#pragma once

#include "common/row_tiles.h"

namespace dvae {

struct SampleArgs {
  Buffer logits, sample;
  RowStrides logits_strides, sample_strides;
  RowTiles tiles;
  NoiseKey noise;
  int64_t row_offset;
  double inverse_tau;
  bool hard;
  bool stream;  // the sample is too large to stay in cache
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
  NoiseKey noise;
  int64_t row_offset;
  double inverse_tau;
  bool stream;
  Buffer dtau_rows;  // null data where the gradient to tau is not needed
};

}  // namespace dvae
