// What every op needs of torch's stable ABI: allocation, typed pointers and row layouts of tensors.
#pragma once

#include "torch/errors.h"  // before torch's headers, whose checks it words

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/buffers.h"
#include "common/elements.h"
#include "common/noise.h"
#include "common/rows.h"

namespace dvae {

// A `str` argument of an op, as TORCH_BOX takes it.
struct Name {
  std::string text;
};

}  // namespace dvae

// torch's own conversion to std::string leaks one at every call.
template <>
struct torch::stable::detail::ToImpl<dvae::Name> {
  static dvae::Name call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    dvae::Name name{std::string(data, length)};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return name;
  }
};

namespace dvae {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// torch.empty_like(like, dtype=dtype): the strides of `like` where it is dense.
inline Tensor empty_like(const Tensor& like, ScalarType dtype) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{
      from(like), from(std::optional(dtype)), from(std::nullopt), from(std::nullopt), from(std::nullopt),
      from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline Buffer buffer_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return {tensor.data_ptr(), Storage::float32};
    case ScalarType::Double: return {tensor.data_ptr(), Storage::float64};
    case ScalarType::BFloat16: return {tensor.data_ptr(), Storage::bfloat16};
    case ScalarType::Half: return {tensor.data_ptr(), Storage::half};
    default: STD_TORCH_CHECK(false, "dvae_kernels: expected a floating-point tensor"); return {};
  }
}

// Without data where there is no tensor, or none of its elements.
inline Buffer optional_buffer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() && tensor->numel() > 0 ? buffer_of(*tensor) : Buffer{};
}

// The dtypes that kernels are built for: a sample has its logits' dtype, or float32 for half logits (autocast).
inline void check_sample_type(ScalarType logits, ScalarType sample) {
  STD_TORCH_CHECK(
      sample == logits || (sample == ScalarType::Float && logits != ScalarType::Double),
      "dvae_kernels: expected samples and their gradients in the logits' dtype, or in float32 for half logits");
}

inline void check_same_type(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), "dvae_kernels: expected tensors of one dtype");
}

inline void check_dim(const Tensor& tensor, int64_t dim) {
  STD_TORCH_CHECK(dim >= 0 && dim < tensor.dim(), "dvae_kernels: expected dim in [0, number of dimensions)");
}

inline void check_same_device(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.get_device_index() == b.get_device_index(), "dvae_kernels: expected tensors on one device");
}

// The key of the noise is read where it lies: two int64 words beside `like`.
inline KeyWords key_words(const std::optional<Tensor>& key, const Tensor& like) {
  if (!key.has_value()) return {};
  STD_TORCH_CHECK(
      key->scalar_type() == ScalarType::Long && key->dim() == 1 && key->size(0) == 2,
      "dvae_kernels: expected a key of two int64 words");
  check_same_device(*key, like);
  return {static_cast<const int64_t*>(key->const_data_ptr()), key->stride(0)};
}

inline Tensor fill(Tensor tensor, double value) { return torch::stable::fill_(tensor, value); }

// Whether the host knows a temperature to be zero, or to be no temperature; kernels look at one in device memory.
inline bool known_zero(const ScalarArgument& tau) { return tau.data == nullptr && tau.value == 0; }
inline bool known_invalid(const ScalarArgument& tau) {
  return tau.data == nullptr && !(tau.value >= 0 && tau.value < std::numeric_limits<double>::infinity());
}

inline NoiseArgument noise_argument(const std::optional<Tensor>& key, const Tensor& like, int64_t row_offset) {
  return {key_words(key, like), static_cast<uint32_t>(row_offset)};
}

// A one-dimensional tensor beside `like`.
inline Tensor new_vector(const Tensor& like, int64_t size, ScalarType dtype) {
  return torch::stable::new_empty(like, {size}, dtype);
}

// One value for each row around `dim`: the shape of `like` without it.
inline Tensor new_rows(const Tensor& like, int64_t dim, ScalarType dtype) {
  check_dim(like, dim);
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  sizes.erase(sizes.begin() + dim);
  return torch::stable::new_empty(like, sizes, dtype);
}

// One value per row, contiguous, in the compute type of `like`.
inline Tensor checked_rows(const Tensor& rows, const Tensor& like, int64_t dim) {
  check_same_device(rows, like);
  STD_TORCH_CHECK(
      rows.scalar_type() == compute_type(like.scalar_type()) && rows.numel() * like.size(dim) == like.numel(),
      "dvae_kernels: expected one value in the compute type for each row");
  return torch::stable::contiguous(rows);
}

// One index for each row, as gumbel_argmax gives it, and its memory.
inline Tensor contiguous_index(const Tensor& index, const Tensor& like, int64_t dim) {
  check_same_device(index, like);
  STD_TORCH_CHECK(
      index.scalar_type() == ScalarType::Long && index.numel() * like.size(dim) == like.numel(),
      "dvae_kernels: expected one int64 index for each row");
  return torch::stable::contiguous(index);
}
inline int64_t* index_data(const Tensor& index) { return static_cast<int64_t*>(index.data_ptr()); }

template <int N>
bool coalesce_rows(const std::array<const Tensor*, N>& tensors, int64_t dim, RowLayout<N>* layout) {
  check_dim(*tensors[0], dim);
  std::array<const int64_t*, N> strides;
  for (int t = 0; t < N; ++t) {
    check_same_device(*tensors[t], *tensors[0]);
    STD_TORCH_CHECK(tensors[t]->sizes().equals(tensors[0]->sizes()), "dvae_kernels: expected tensors of one shape");
    strides[t] = tensors[t]->strides().data();
  }
  const auto ndim = static_cast<int>(tensors[0]->dim());
  return coalesce_rows<N>(ndim, tensors[0]->sizes().data(), static_cast<int>(dim), strides, layout);
}

// The rows' parts of the gradient to a temperature: one per row, or none.
inline Tensor new_tau_rows(const Tensor& like, int64_t dim, bool needed) {
  const int64_t rows = needed && like.numel() > 0 ? like.numel() / like.size(dim) : 0;
  return new_vector(like, rows, compute_type(like.scalar_type()));
}

// Calls run(buffers) with contiguous tensors of one shape, the last `outputs` of which are written. Other tensors are
// copied, and results are copied back to them.
template <int N, int outputs = 1, class Run>
void with_contiguous(const std::array<Tensor, N>& given, const Run& run) {
  std::array<Tensor, N> tensors = given;
  for (int t = 0; t < N; ++t) {
    check_same_device(given[t], given[0]);
    STD_TORCH_CHECK(given[t].sizes().equals(given[0].sizes()), "dvae_kernels: expected tensors of one shape");
    if (t < N - outputs) {
      tensors[t] = torch::stable::contiguous(given[t]);
    } else if (!given[t].is_contiguous()) {
      tensors[t] = torch::stable::new_empty(given[t], given[t].sizes());
    }
  }
  std::array<Buffer, N> buffers;
  for (int t = 0; t < N; ++t) buffers[t] = buffer_of(tensors[t]);
  run(buffers);
  for (int t = N - outputs; t < N; ++t) {
    Tensor output = given[t];
    if (!output.is_contiguous()) torch::stable::copy_(output, tensors[t]);
  }
}

// A matrix with columns next to each other; copied only where they are not.
inline Tensor with_unit_columns(const Tensor& matrix) {
  return matrix.size(1) <= 1 || matrix.stride(1) == 1 ? matrix : torch::stable::contiguous(matrix);
}

// A contiguous result in the strides that torch.empty_like(like) has.
inline Tensor laid_out_like(const Tensor& like, Tensor result) {
  if (like.is_contiguous()) return result;
  Tensor laid_out = empty_like(like, result.scalar_type());
  torch::stable::copy_(laid_out, result);
  return laid_out;
}

// Calls run(rows) with the rows of the tensors, the last `outputs` of which are written. Tensors whose rows do not coalesce
// (three or more groups of dimensions) are copied, and the results copied back.
template <int N, class Run>
void with_coalesced_rows(const std::array<Tensor, N>& given, int64_t dim, int outputs, const Run& run) {
  Rows<N> rows;
  std::array<Tensor, N> tensors = given;
  std::array<const Tensor*, N> pointers;
  for (int t = 0; t < N; ++t) pointers[t] = &tensors[t];
  const bool coalesce = coalesce_rows<N>(pointers, dim, &rows.layout);
  if (!coalesce) {
    for (Tensor& tensor : tensors) tensor = torch::stable::contiguous(tensor);
    coalesce_rows<N>(pointers, dim, &rows.layout);
  }
  for (int t = 0; t < N; ++t) rows.tensors[t] = buffer_of(tensors[t]);
  run(rows);
  for (int t = N - outputs; t < N && !coalesce; ++t) {
    Tensor output = given[t];
    if (!output.is_contiguous()) torch::stable::copy_(output, tensors[t]);  // else contiguous() aliased it
  }
}

// One number per block of `like`'s elements, or none.
inline Tensor new_block_sums(const Tensor& like, bool needed) {
  const int64_t blocks = needed ? ElementBlocks(like.numel(), 0).blocks() : 0;
  return new_vector(like, blocks, compute_type(like.scalar_type()));
}

}  // namespace dvae
