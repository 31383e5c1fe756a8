// Arguments of the CPU kernels, the same for every target. Tensors are contiguous.
#pragma once

#include "common/buffers.h"
#include "common/elements.h"
#include "common/noise.h"

namespace dvae {

struct BinaryConcreteArgs {
  Buffer logits, sample;
  ElementBlocks blocks;
  NoiseKey noise;
  double inverse_tau;
  bool hard;
  bool stream;  // the sample is too large to stay in cache
};

struct BinaryConcreteBackwardArgs {
  Buffer grad, logits, dlogits;
  ElementBlocks blocks;
  NoiseKey noise;
  double inverse_tau;
  bool stream;
  void* dtau_parts;  // null where the gradient to tau is not needed
};

struct BinaryConcreteLogProbArgs {
  Buffer y, logits, log_prob;
  ElementBlocks blocks;
  double tau;
  bool stream;
};

struct BinaryConcreteLogProbBackwardArgs {
  Buffer grad, y, logits, dy, dlogits;
  ElementBlocks blocks;
  double tau;
  bool stream;
  void* dtau_parts;
};

}  // namespace dvae
