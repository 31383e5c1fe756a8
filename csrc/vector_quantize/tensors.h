// The ops of vector_quantize on torch tensors, for the Device of cpu.cpp and that of cuda.cu.
#pragma once

#include <optional>
#include <tuple>

#include "codebook/tensors.h"
#include "vector_quantize/arguments.h"

namespace dvae {

// One index for each row of x.
inline Tensor checked_row_indices(const Tensor& indices, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, "vector_quantize: expected x of two dimensions");
  check_indices(indices, x);
  STD_TORCH_CHECK(indices.dim() == 1 && indices.size(0) == x.size(0), "vector_quantize: expected one index a row");
  return torch::stable::contiguous(indices);
}

// Codes that go with the rows of x.
inline void check_codes(const Tensor& codes, const Tensor& x) {
  check_same_device(codes, x);
  STD_TORCH_CHECK(
      codes.dim() == 2 && codes.size(1) == x.size(1) &&
          compute_type(codes.scalar_type()) == compute_type(x.scalar_type()),
      "vector_quantize: expected codes as wide as x, both float64 or neither");
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> vector_quantize_fwd(
    const Tensor& given_x, const Tensor& given_codebook, const Tensor& given_indices, bool keep_codes) {
  const Device device(given_x);
  const Tensor indices = checked_row_indices(given_indices, given_x);
  check_codes(given_codebook, given_x);
  const Tensor x = with_unit_columns(given_x), codebook = with_unit_columns(given_codebook);
  const int64_t rows = x.size(0), columns = x.size(1);
  const Tensor quantized = torch::stable::new_empty(x, {rows, columns});
  const Tensor codes = torch::stable::new_empty(codebook, {keep_codes ? rows : 0, columns});
  const Tensor errors = new_vector(x, rows, compute_type(x.scalar_type()));
  if (x.numel() > 0) {
    device.run(QuantizeArgs{
        rows, columns, buffer_of(x), x.stride(0), buffer_of(codebook), codebook.stride(0), codebook.size(0),
        index_data(indices), buffer_of(quantized), optional_buffer(codes), buffer_of(errors)});
  }
  return {quantized, codes, errors};
}

template <class Device>
std::tuple<Tensor, Tensor> vector_quantize_bwd(
    const std::optional<Tensor>& given_grad, const std::optional<Tensor>& given_grad_losses, const Tensor& given_x,
    const Tensor& given_codes, const Tensor& given_indices, double commitment_weight, double codebook_weight,
    bool rotation, bool codes_grad) {
  const Device device(given_x);
  const Tensor indices = checked_row_indices(given_indices, given_x);
  check_codes(given_codes, given_x);
  const Tensor x = with_unit_columns(given_x), codes = with_unit_columns(given_codes);
  const int64_t rows = x.size(0), columns = x.size(1);
  STD_TORCH_CHECK(codes.size(0) == rows, "vector_quantize: expected one code a row");
  std::optional<Tensor> grad, grad_losses;
  if (given_grad.has_value()) {
    check_same_device(*given_grad, x);
    check_same_type(*given_grad, x);
    STD_TORCH_CHECK(given_grad->sizes().equals(x.sizes()), "vector_quantize: expected grad of the shape of x");
    grad = with_unit_columns(*given_grad);
  }
  if (given_grad_losses.has_value()) grad_losses = checked_rows(*given_grad_losses, x, 1);
  const Tensor dx = torch::stable::new_empty(x, {rows, columns});
  Tensor dcodes = torch::stable::new_empty(x, {codes_grad ? rows : 0, columns}, compute_type(x.scalar_type()));
  // without losses zeros, also where x - c overflows
  if (!grad_losses.has_value()) torch::stable::zero_(dcodes);
  if (x.numel() > 0) {
    device.run(QuantizeBackwardArgs{
        rows, columns, optional_buffer(grad), grad.has_value() ? grad->stride(0) : 0, optional_buffer(grad_losses),
        buffer_of(x), x.stride(0), buffer_of(codes), codes.stride(0), index_data(indices), commitment_weight,
        codebook_weight, rotation, buffer_of(dx), grad_losses.has_value() ? optional_buffer(dcodes) : Buffer{}});
  }
  return {dx, dcodes};
}

}  // namespace dvae
