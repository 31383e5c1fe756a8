// Arguments of the kernels of vector_quantize, the same on every device; nothing here needs torch.
#pragma once

#include <cstdint>

#include "common/buffers.h"
#include "common/indices.h"

namespace dvae {

// Rows [N, D] and their codes. Strides are from row to row, in elements; the elements of a row lie next to each other.
struct QuantizeArgs {
  int64_t rows, columns;
  Buffer x;
  int64_t x_stride;
  Buffer codebook;
  int64_t codebook_stride, num_codes;
  const int64_t* indices;   // of each row's code; kMasked, or another outside [0, num_codes): a row of NaN
  Buffer quantized, codes;  // contiguous; no data where codes are not kept
  Buffer errors;            // one for each row, in the compute type
};

struct QuantizeBackwardArgs {
  int64_t rows, columns;
  Buffer grad;  // no data where there is none
  int64_t grad_stride;
  Buffer grad_losses;  // one for each row, in the compute type; no data where there are none
  Buffer x;
  int64_t x_stride;
  Buffer codes;
  int64_t codes_stride;
  const int64_t* indices;
  double commitment_weight, codebook_weight;
  bool rotation;
  Buffer dx, dcodes;  // contiguous, dcodes in the compute type; no data where it is not wanted
};

}  // namespace dvae
