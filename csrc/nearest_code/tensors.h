// nearest_code on torch tensors, for the Device of cpu.cpp and that of cuda.cu.
#pragma once

#include <tuple>

#include "nearest_code/formulas.h"
#include "torch/tensor.h"

namespace dvae {

inline Metric checked_metric(const Name& name) {
  const Metric* const metric = find_metric(name.text);
  STD_TORCH_CHECK(metric != nullptr, "nearest_code: unknown metric ", name.text);
  return *metric;
}

// x [heads, rows, D] beside the codebook [heads, K, D]. Indices and scores are [heads, rows], scores empty
// where they are not asked for; `rescored` counts rows with several candidates, blocks scored again, and all
// blocks.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> nearest_codes(
    const Tensor& x, const Tensor& codebook, const Name& metric_name, const Name& precision, bool with_score) {
  const Metric metric = checked_metric(metric_name);
  const Device device(x);
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
  const Tensor indices = new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  const Tensor scores = with_score ? new_empty(x, {x.size(0), x.size(1)}, compute) : new_vector(x, 0, compute);
  const Tensor rescored = torch::stable::new_zeros(x, {3}, ScalarType::Long);
  if (indices.numel() > 0) device.search(x, codebook, metric, indices, scores, rescored);
  return {indices, scores, rescored};
}

}  // namespace dvae
