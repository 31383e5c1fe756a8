// Arguments of the CPU kernels, the same for every target.
#pragma once

#include "common/noise.h"
#include "common/rows.h"

namespace dvae {

struct ReinmaxArgs {
  Buffer grad, logits, dlogits;
  RowStrides grad_strides, logits_strides, dlogits_strides;
  RowTiles tiles;
  const int64_t* indices;  // of the rows
  double inverse_tau;
  bool stream;
};

struct GumbelRaoArgs {
  Buffer grad, logits, dlogits;
  RowStrides grad_strides, logits_strides, dlogits_strides;
  RowTiles tiles;
  const int64_t* indices;  // of the rows
  NoiseKey noise;
  int64_t row_offset;
  int64_t draws;
  double inverse_tau;
  bool stream;
};

}  // namespace dvae
