// The arguments of the binary concrete kernels, on every device; nothing here needs torch. Tensors are contiguous.
#pragma once

#include "common/buffers.h"
#include "common/elements.h"
#include "common/noise.h"

namespace dvae {

struct BinaryConcreteArgs {
  Buffer logits, sample;
  ElementBlocks blocks;
  KeyWords key;
  ScalarArgument tau;
  bool hard;
};

struct BinaryConcreteBackwardArgs {
  Buffer grad, logits, dlogits;
  ElementBlocks blocks;
  KeyWords key;
  ScalarArgument tau;
  Buffer dtau_partials;  // one sum per block in the compute type; no data if the gradient to tau is not needed
};

struct BinaryConcreteLogProbArgs {
  Buffer y, logits, log_prob;
  ElementBlocks blocks;
  ScalarArgument tau;
};

struct BinaryConcreteLogProbBackwardArgs {
  Buffer grad, y, logits, dy, dlogits;
  ElementBlocks blocks;
  ScalarArgument tau;
  Buffer dtau_partials;
};

}  // namespace dvae
