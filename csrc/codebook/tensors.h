// Checks and views of the codebook ops' tensors, for CPU and CUDA.
#pragma once

#include "codebook/blocks.h"
#include "torch/tensor.h"

namespace dvae {

inline void check_indices(const Tensor& indices, const Tensor& like) {
  check_same_device(indices, like);
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, "dvae_kernels: expected int64 indices");
}

// [..., D] beside the codebook [K, D].
inline Tensor new_gathered(const Tensor& codebook, const Tensor& indices) {
  STD_TORCH_CHECK(codebook.dim() == 2, "gather_codes: expected a codebook of two dimensions");
  check_indices(indices, codebook);
  std::vector<int64_t> shape(indices.sizes().begin(), indices.sizes().end());
  shape.push_back(codebook.size(1));
  return torch::stable::new_empty(codebook, shape, codebook.scalar_type());
}

// [num_codes, D] beside x [N, D].
inline Tensor new_sums(const char* op, const Tensor& x, const Tensor& indices, int64_t num_codes) {
  STD_TORCH_CHECK(x.dim() == 2, op, ": expected x of two dimensions");
  check_indices(indices, x);
  STD_TORCH_CHECK(indices.dim() == 1 && indices.size(0) == x.size(0), op, ": expected one index a row");
  STD_TORCH_CHECK(num_codes >= 0 && num_codes < INT32_MAX, op, ": expected num_codes in [0, 2^31 - 1)");
  return torch::stable::new_zeros(x, {num_codes, x.size(1)}, compute_type(x.scalar_type()));
}

}  // namespace dvae
