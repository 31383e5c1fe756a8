// CUDA backend of gathering, summing and counting codes.

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

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void run(const GatherArgs& args) const { dvae::gather_codes(stream(), args); }

  // (the codes of the rows of x, ascending, their positions). Rows that take no part have code num_codes: rows with
  // indices outside and, if `finite`, rows that are not finite.
  std::array<Tensor, 2> sort_by_code(
      const Tensor& x, const Tensor& indices, int64_t num_codes, bool finite) const {
    const Tensor keys = new_vector(indices, x.size(0), ScalarType::Int);
    code_keys(stream(), {x.size(0), x.size(1), finite ? buffer_of(x) : Buffer{}, x.stride(0), index_data(indices),
                         static_cast<int32_t>(num_codes), static_cast<int32_t*>(keys.data_ptr())});
    return stable_sort(keys);
  }

  void add_rows(const Tensor& x, const Tensor& indices, const Tensor& sums) const {
    const auto [codes, order] = sort_by_code(x, indices, sums.size(0), false);
    dvae::code_sums(stream(), CodeSumsTensors(x, order, codes, sums).args());
  }

  void add_finite_rows(const Tensor& x, const Tensor& indices, const Tensor& counts, const Tensor& sums) const {
    const bool columns = x.size(1) > 0;
    const auto [codes, order] = sort_by_code(x, indices, counts.size(0), columns);
    code_counts(stream(), {static_cast<const int32_t*>(codes.const_data_ptr()), x.size(0),
                           static_cast<int32_t>(counts.size(0)), buffer_of(counts)});
    if (columns) dvae::code_sums(stream(), CodeSumsTensors(x, order, codes, sums).args());
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gather_codes.cuda", TORCH_BOX(&dvae::gather_codes<dvae::Cuda>));
  m.impl("code_sums.cuda", TORCH_BOX(&dvae::code_sums<dvae::Cuda>));
  m.impl("code_statistics.cuda", TORCH_BOX(&dvae::code_statistics<dvae::Cuda>));
}
