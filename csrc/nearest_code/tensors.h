// Checks of nearest_code's arguments, and memory for its results, for CPU and CUDA.
#pragma once

#include "nearest_code/formulas.h"
#include "torch/tensor.h"

namespace dvae {

inline Metric checked_metric(const Name& name) {
  const Metric* const metric = find_metric(name.text);
  STD_TORCH_CHECK(metric != nullptr, "nearest_code: unknown metric ", name.text);
  return *metric;
}

struct NearestOutputs {
  Tensor indices, scores;  // [heads, rows]; scores empty where they are not asked for
  Tensor rescored;         // zeros: counts of rows with several candidates, of blocks scored again, and of all blocks
};

// x [heads, rows, D] beside the codebook [heads, K, D].
inline NearestOutputs new_nearest_outputs(
    const Tensor& x, const Tensor& codebook, const Name& precision, bool with_score) {
  STD_TORCH_CHECK(x.dim() == 3 && codebook.dim() == 3, "nearest_code: expected x and codebook of three dimensions");
  STD_TORCH_CHECK(
      x.size(0) == codebook.size(0) && x.size(2) == codebook.size(2),
      "nearest_code: expected x and codebook with the same heads and columns");
  STD_TORCH_CHECK(x.size(2) >= 1, "nearest_code: expected at least one column");
  STD_TORCH_CHECK(
      codebook.size(1) >= 1 || x.size(0) * x.size(1) == 0, "nearest_code: expected a codebook that is not empty");
  STD_TORCH_CHECK(codebook.size(1) < INT32_MAX, "nearest_code: expected fewer than 2^31 - 1 codes");
  check_same_device(codebook, x);
  const ScalarType compute = compute_type(x.scalar_type());
  STD_TORCH_CHECK(  // buffer_of refuses integers
      (buffer_of(x).type == Storage::float64) == (buffer_of(codebook).type == Storage::float64),
      "nearest_code: expected x and codebook both float64 or neither");
  STD_TORCH_CHECK(
      precision.text == "exact" || precision.text == "fp32" || precision.text == "bf16",
      "nearest_code: unknown precision ", precision.text);
  using torch::stable::new_empty;
  Tensor scores = with_score ? new_empty(x, {x.size(0), x.size(1)}, compute) : new_vector(x, 0, compute);
  return {new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long), scores,
          torch::stable::new_zeros(x, {3}, ScalarType::Long)};
}

}  // namespace dvae
