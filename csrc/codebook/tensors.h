// The codebook ops on torch tensors, for the Device of cpu.cpp and that of cuda.cu.
#pragma once

#include <tuple>

#include "codebook/levels.h"
#include "torch/tensor.h"

namespace dvae {

inline void check_indices(const Tensor& indices, const Tensor& like) {
  check_same_device(indices, like);
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, "dvae_kernels: expected int64 indices");
}

// The rows [..., D] of the codebook [K, D].
template <class Device>
Tensor gather_codes(const Tensor& given_codebook, const Tensor& given_indices) {
  const Device device(given_codebook);
  STD_TORCH_CHECK(given_codebook.dim() == 2, "gather_codes: expected a codebook of two dimensions");
  check_indices(given_indices, given_codebook);
  const Tensor codebook = with_unit_columns(given_codebook), indices = torch::stable::contiguous(given_indices);
  const int64_t columns = codebook.size(1);
  std::vector<int64_t> shape(indices.sizes().begin(), indices.sizes().end());
  shape.push_back(columns);
  const Tensor output = torch::stable::new_empty(codebook, shape, codebook.scalar_type());
  if (output.numel() > 0) {
    device.run(GatherArgs{
        indices.numel(), columns, buffer_of(codebook), codebook.stride(0), codebook.size(0), index_data(indices),
        buffer_of(output)});
  }
  return output;
}

// Zeros for the sums [num_codes, D] of the rows of x [N, D].
inline Tensor new_sums(const char* op, const Tensor& x, const Tensor& indices, int64_t num_codes) {
  STD_TORCH_CHECK(x.dim() == 2, op, ": expected x of two dimensions");
  check_indices(indices, x);
  STD_TORCH_CHECK(indices.dim() == 1 && indices.size(0) == x.size(0), op, ": expected one index a row");
  STD_TORCH_CHECK(num_codes >= 0 && num_codes < INT32_MAX, op, ": expected num_codes in [0, 2^31 - 1)");
  return torch::stable::new_zeros(x, {num_codes, x.size(1)}, compute_type(x.scalar_type()));
}

template <class Device>
Tensor code_sums(const Tensor& x, const Tensor& indices, int64_t num_codes) {
  const Device device(x);
  const Tensor sums = new_sums("code_sums", x, indices, num_codes);
  if (sums.numel() > 0 && x.size(0) > 0) {
    device.add_rows(with_unit_columns(x), torch::stable::contiguous(indices), sums);
  }
  return sums;
}

// Of the rows that are finite: how many there are of each code, and their sums.
template <class Device>
std::tuple<Tensor, Tensor> code_statistics(const Tensor& x, const Tensor& indices, int64_t num_codes) {
  const Device device(x);
  const Tensor sums = new_sums("code_statistics", x, indices, num_codes);
  const Tensor counts = torch::stable::new_zeros(sums, {num_codes});
  if (x.size(0) > 0 && num_codes > 0) {
    device.add_finite_rows(with_unit_columns(x), torch::stable::contiguous(indices), counts, sums);
  }
  return {counts, sums};
}

// The rows of x in the order of their codes, int64 and int32, and the memory for their partial sums.
class CodeSumsTensors {
 public:
  CodeSumsTensors(const Tensor& x, const Tensor& order, const Tensor& codes, const Tensor& sums)
      : x_(x), order_(order), codes_(codes), sums_(sums) {
    // partial rows, and behind them their codes
    scratch_ = new_vector(sums, scratch_count(x.size(0)) * (x.size(1) + 1), sums.scalar_type());
  }

  CodeSumsArgs args() const {
    const SortedRows sorted{
        buffer_of(x_), x_.stride(0), x_.size(1), index_data(order_), static_cast<int32_t*>(codes_.data_ptr()),
        x_.size(0), static_cast<int32_t>(sums_.size(0))};
    const Buffer sums = buffer_of(sums_);
    auto* const partial = static_cast<char*>(scratch_.data_ptr());
    const int64_t bytes = scratch_count(x_.size(0)) * x_.size(1) * size_of(sums.type);
    return {sorted, sums, {partial, reinterpret_cast<int32_t*>(partial + bytes)}};
  }

 private:
  Tensor x_, order_, codes_, sums_, scratch_;
};

}  // namespace dvae
