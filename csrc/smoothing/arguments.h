// The arguments of the smoothing kernels, on every device; nothing here needs torch. Tensors are contiguous; a tensor
// that is not there has no data.
#pragma once

#include <string_view>

#include "common/buffers.h"
#include "common/elements.h"
#include "common/noise.h"

namespace dvae {

// A kind by its name, as find_kind looks it up.
struct SmoothingKind {
  std::string_view name;
  bool exists = false, noise_has_gradient = false;
};

struct SmoothingBeta {
  ScalarArgument one;
  Buffer elements;  // one beta per element, in place of `one`
};

struct SmoothingArgs {
  std::string_view kind;
  Buffer logits, zeta;
  ElementBlocks blocks;
  KeyWords key;
  Buffer noise;  // in place of the key's
  SmoothingBeta beta;
};

struct SmoothingBackwardArgs {
  std::string_view kind;
  Buffer grad, logits, dlogits;
  ElementBlocks blocks;
  KeyWords key;
  Buffer noise;
  SmoothingBeta beta;
  Buffer dbeta, dnoise;  // dbeta: one per element if beta is, else one sum per block
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
