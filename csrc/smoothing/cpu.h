// Arguments of the CPU kernels, the same for every target. Tensors are contiguous; one that is not there has no data.
#pragma once

#include <string_view>

#include "common/buffers.h"
#include "common/elements.h"
#include "common/noise.h"

namespace dvae {

// beta: a number, or one for each element.
struct SmoothingBeta {
  double value;
  Buffer elements;
};

struct SmoothingArgs {
  std::string_view kind;
  Buffer logits, zeta;
  ElementBlocks blocks;
  NoiseKey key;
  Buffer noise;  // in place of the key's
  SmoothingBeta beta;
};

struct SmoothingBackwardArgs {
  std::string_view kind;
  Buffer grad, logits, dlogits;
  ElementBlocks blocks;
  NoiseKey key;
  Buffer noise;
  SmoothingBeta beta;
  Buffer dbeta, dnoise;  // dbeta: of each element, or one sum of each block
};

struct SmoothingLogProbArgs {
  std::string_view kind;
  Buffer zeta, logits, log_prob;
  ElementBlocks blocks;
  SmoothingBeta beta;
};

struct SmoothingLogProbBackwardArgs {
  std::string_view kind;
  Buffer grad, zeta, logits, dzeta, dlogits;
  ElementBlocks blocks;
  SmoothingBeta beta;
  Buffer dbeta;
};

}  // namespace dvae
