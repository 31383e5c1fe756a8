// CUDA backend of gathering, summing and counting codes: the ops on torch tensors.

#include <tuple>

#include "codebook/kernels.cuh"
#include "codebook/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

Tensor gather(Tensor codebook, Tensor indices) {
  const torch::stable::accelerator::DeviceGuard guard(codebook.get_device_index());
  return run_gather_codes(codebook, indices, on_stream(codebook, gather_codes));
}

// (ascending values, their positions), equal ones in their order: torch.sort(keys, stable=True).
std::array<Tensor, 2> stable_sort(const Tensor& keys) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional(true)), from(int64_t{0}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// (the codes of the rows of x, ascending, their positions). Rows that take no part have code num_codes: rows with
// indices outside and, if `finite`, rows that are not finite.
std::array<Tensor, 2> sort_by_code(const Tensor& x, const Tensor& given, int64_t num_codes, bool finite) {
  const Tensor indices = torch::stable::contiguous(given), keys = new_vector(indices, x.size(0), ScalarType::Int);
  code_keys(current_stream(x), {x.size(0), x.size(1), finite ? buffer_of(x) : Buffer{}, x.stride(0),
                                index_data(indices), static_cast<int32_t>(num_codes),
                                static_cast<int32_t*>(keys.data_ptr())});
  return stable_sort(keys);
}

Tensor sums(Tensor x, Tensor indices, int64_t num_codes) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor result = new_sums("code_sums", x, indices, num_codes);
  if (x.numel() == 0 || num_codes == 0) return result;
  x = with_unit_columns(x);
  const auto [codes, order] = sort_by_code(x, indices, num_codes, false);
  code_sums(current_stream(x), CodeSumsTensors(x, order, codes, result).args());
  return result;
}

std::tuple<Tensor, Tensor> statistics(Tensor x, Tensor indices, int64_t num_codes) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor result = new_sums("code_statistics", x, indices, num_codes);
  const Tensor counts = torch::stable::new_zeros(result, {num_codes});
  if (x.size(0) == 0 || num_codes == 0) return {counts, result};
  x = with_unit_columns(x);
  const bool columns = x.size(1) > 0;
  const auto [codes, order] = sort_by_code(x, indices, num_codes, columns);
  const Stream stream = current_stream(x);
  code_counts(stream, {static_cast<const int32_t*>(codes.const_data_ptr()), x.size(0), static_cast<int32_t>(num_codes),
                       buffer_of(counts)});
  if (columns) code_sums(stream, CodeSumsTensors(x, order, codes, result).args());
  return {counts, result};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gather_codes.cuda", TORCH_BOX(&dvae::gather));
  m.impl("code_sums.cuda", TORCH_BOX(&dvae::sums));
  m.impl("code_statistics.cuda", TORCH_BOX(&dvae::statistics));
}
