// Checks and memory of the ops of vector_quantize, for CPU and CUDA.
#pragma once

#include <optional>

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

class QuantizeTensors {
 public:
  Tensor quantized, codes, errors;

  QuantizeTensors(const Tensor& x, const Tensor& codebook, const Tensor& indices, bool keep_codes)
      : indices_(checked_row_indices(indices, x)) {
    check_codes(codebook, x);
    const int64_t rows = x.size(0), columns = x.size(1);
    x_ = with_unit_columns(x);
    codebook_ = with_unit_columns(codebook);
    quantized = torch::stable::new_empty(x, {rows, columns}, x.scalar_type());
    codes = torch::stable::new_empty(x, {keep_codes ? rows : 0, columns}, codebook.scalar_type());
    errors = new_vector(x, rows, compute_type(x.scalar_type()));
  }

  QuantizeArgs args() const {
    return {x_.size(0), x_.size(1), buffer_of(x_), x_.stride(0), buffer_of(codebook_), codebook_.stride(0),
            codebook_.size(0), static_cast<const int64_t*>(indices_.const_data_ptr()), buffer_of(quantized),
            optional_buffer(codes), buffer_of(errors)};
  }

 private:
  Tensor x_, codebook_, indices_;
};

class QuantizeBackwardTensors {
 public:
  Tensor dx, dcodes;

  QuantizeBackwardTensors(
      const std::optional<Tensor>& grad, const std::optional<Tensor>& grad_losses, const Tensor& x,
      const Tensor& codes, const Tensor& indices, bool codes_grad)
      : indices_(checked_row_indices(indices, x)) {
    check_codes(codes, x);
    const int64_t rows = x.size(0), columns = x.size(1);
    const ScalarType compute = compute_type(x.scalar_type());
    STD_TORCH_CHECK(codes.size(0) == rows, "vector_quantize: expected one code a row");
    x_ = with_unit_columns(x);
    codes_ = with_unit_columns(codes);
    if (grad.has_value()) {
      check_same_device(*grad, x);
      check_same_type(*grad, x);
      STD_TORCH_CHECK(grad->sizes().equals(x.sizes()), "vector_quantize: expected grad of the shape of x");
      grad_ = with_unit_columns(*grad);
    }
    if (grad_losses.has_value()) grad_losses_ = checked_rows(*grad_losses, x, 1);
    dx = torch::stable::new_empty(x, {rows, columns}, x.scalar_type());
    dcodes = torch::stable::new_empty(x, {codes_grad ? rows : 0, columns}, compute);
    if (!grad_losses.has_value()) torch::stable::zero_(dcodes);
  }

  QuantizeBackwardArgs args(double commitment_weight, double codebook_weight, bool rotation) const {
    return {x_.size(0), x_.size(1), optional_buffer(grad_), grad_.has_value() ? grad_->stride(0) : 0,
            optional_buffer(grad_losses_), buffer_of(x_), x_.stride(0), buffer_of(codes_), codes_.stride(0),
            static_cast<const int64_t*>(indices_.const_data_ptr()), commitment_weight, codebook_weight, rotation,
            // without losses zeros, also where x - c overflows
            buffer_of(dx), optional_buffer(grad_losses_.has_value() ? std::optional(dcodes) : std::nullopt)};
  }

 private:
  Tensor x_, codes_, indices_;
  std::optional<Tensor> grad_, grad_losses_;
};

}  // namespace dvae
