// CUDA backend of gathering, summing and counting codes: the ops on torch tensors.

#include <tuple>
#include <vector>

#include "codebook/kernels.cuh"
#include "codebook/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

// (ascending values, their positions), equal ones in their order: torch.sort(keys, stable=True).
std::array<Tensor, 2> stable_sort(const Tensor& keys) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional(true)), from(int64_t{0}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

Tensor gather(Tensor codebook, Tensor indices) {
  const torch::stable::accelerator::DeviceGuard guard(codebook.get_device_index());
  Tensor out = new_gathered(codebook, indices);
  if (out.numel() == 0) return out;
  codebook = with_unit_columns(codebook);
  indices = torch::stable::contiguous(indices);
  gather_codes(
      make_call(codebook, std::nullopt, 0).stream, buffer_of(codebook), codebook.size(0), codebook.stride(0),
      codebook.size(1), static_cast<const int64_t*>(indices.const_data_ptr()), indices.numel(),
      out.mutable_data_ptr());
  return out;
}

// Adds the rows of x to the sums of their codes, zeros before. codes: ascending; order: of the rows that have them.
void add_rows(const Tensor& x, const Tensor& codes, const Tensor& order, Tensor& result) {
  const int64_t rows = x.size(0), columns = x.size(1), scratch = scratch_count(rows);
  const Tensor partial_codes = new_vector(codes, scratch, ScalarType::Int);
  const Tensor partial = new_vector(result, scratch * columns, result.scalar_type());
  const SortedRows sorted{buffer_of(x), x.stride(0), columns, static_cast<const int64_t*>(order.const_data_ptr()),
                          static_cast<const int32_t*>(codes.const_data_ptr()), rows,
                          static_cast<int32_t>(result.size(0))};
  code_sums(make_call(x, std::nullopt, 0).stream, sorted, result.mutable_data_ptr(),
            {partial.mutable_data_ptr(), static_cast<int32_t*>(partial_codes.mutable_data_ptr())});
}

Tensor sums(Tensor x, Tensor indices, int64_t num_codes) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor result = new_sums("code_sums", x, indices, num_codes);
  if (x.numel() == 0 || num_codes == 0) return result;
  x = with_unit_columns(x);
  indices = torch::stable::contiguous(indices);
  const Tensor keys = new_vector(indices, x.size(0), ScalarType::Int);
  code_keys(make_call(x, std::nullopt, 0).stream, static_cast<const int64_t*>(indices.const_data_ptr()), x.size(0),
            static_cast<int32_t>(num_codes), static_cast<int32_t*>(keys.mutable_data_ptr()));
  const auto [codes, order] = stable_sort(keys);
  add_rows(x, codes, order, result);
  return result;
}

std::tuple<Tensor, Tensor> statistics(Tensor x, Tensor indices, int64_t num_codes) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor result = new_sums("code_statistics", x, indices, num_codes);
  Tensor counts = torch::stable::new_zeros(result, {num_codes});
  const int64_t rows = x.size(0), columns = x.size(1);
  if (rows == 0 || num_codes == 0) return {counts, result};
  x = with_unit_columns(x);
  indices = torch::stable::contiguous(indices);
  const Stream stream = make_call(x, std::nullopt, 0).stream;
  const auto* index = static_cast<const int64_t*>(indices.const_data_ptr());
  const auto none = static_cast<int32_t>(num_codes);
  const Tensor keys = new_vector(indices, rows, ScalarType::Int);
  auto* const key = static_cast<int32_t*>(keys.mutable_data_ptr());
  if (columns > 0) {
    finite_code_keys(stream, buffer_of(x), x.stride(0), columns, index, rows, none, key);
  } else {
    code_keys(stream, index, rows, none, key);
  }
  const auto [codes, order] = stable_sort(keys);
  code_counts(stream, static_cast<const int32_t*>(codes.const_data_ptr()), rows, none, buffer_of(result).type,
              counts.mutable_data_ptr());
  if (columns > 0) add_rows(x, codes, order, result);
  return {counts, result};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gather_codes.cuda", TORCH_BOX(&dvae::gather));
  m.impl("code_sums.cuda", TORCH_BOX(&dvae::sums));
  m.impl("code_statistics.cuda", TORCH_BOX(&dvae::statistics));
}
