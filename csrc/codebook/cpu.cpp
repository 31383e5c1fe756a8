// CPU backend of gathering, summing and counting codes: the ops on torch tensors.

#include "simd/intrinsics.h"

#include <tuple>

#include "codebook/sort.h"
#include "codebook/tensors.h"
#include "torch/parallel.h"

#define DVAE_OP codebook
#include "simd/foreach_target.h"

namespace dvae {
namespace {

Tensor gather(Tensor codebook, Tensor indices) {
  return run_gather_codes(codebook, indices, [](const GatherArgs& args) {
    constexpr int64_t thread_elements = 1 << 15;  // copies take half the time
    parallel_for_rows(DVAE_DISPATCH(gather_codes), args, thread_elements);
  });
}

// Adds the rows of x to the sums of their codes, which are zeros before. Returns the end of each code among the sorted
// rows; `finite` becomes false if a sum is not.
std::vector<int64_t> add_rows(const Tensor& x, const Tensor& indices, const Tensor& sums, std::atomic<bool>* finite) {
  const int64_t rows = x.size(0);
  const Tensor order = new_vector(indices, rows, ScalarType::Long), codes = new_vector(indices, rows, ScalarType::Int);
  auto ends = sort_by_code(
      parallel_for_ranges, torch::stable::get_num_threads(), index_data(indices), rows,
      static_cast<int32_t>(sums.size(0)), index_data(order), static_cast<int32_t*>(codes.data_ptr()));
  const CodeSumsTensors tensors(x, order, codes, sums);
  CodeSumsArgs all = tensors.args();
  all.finite = finite;
  for_levels(all, [](const CodeSumsArgs& args) {
    const auto kernel = DVAE_DISPATCH(code_sums);
    const auto body = [&](int64_t begin, int64_t end) { kernel(args, begin, end); };
    parallel_for(args.level.blocks(), args.level.columns * kBlockRows, body);
  });
  return ends;
}

Tensor sums(Tensor x, Tensor indices, int64_t num_codes) {
  const Tensor result = new_sums("code_sums", x, indices, num_codes);
  std::atomic<bool> finite{true};
  if (result.numel() > 0 && x.size(0) > 0) {
    add_rows(with_unit_columns(x), torch::stable::contiguous(indices), result, &finite);
  }
  return result;
}

// The indices with kMasked for rows of x that are not finite.
Tensor of_finite_rows(const Tensor& x, const Tensor& indices) {
  const Tensor result = torch::stable::clone(indices);
  const FiniteRowsArgs args{x.size(0), x.size(1), buffer_of(x), x.stride(0), index_data(result)};
  parallel_for_rows(DVAE_DISPATCH(mask_rows_not_finite), args);
  return result;
}

std::tuple<Tensor, Tensor> statistics(Tensor x, Tensor indices, int64_t num_codes) {
  const Tensor result = new_sums("code_statistics", x, indices, num_codes);
  const Tensor counts = torch::stable::new_zeros(result, {num_codes});
  if (x.size(0) == 0 || num_codes == 0) return {counts, result};
  x = with_unit_columns(x);
  indices = torch::stable::contiguous(indices);
  std::atomic<bool> finite{true};
  auto ends = add_rows(x, indices, result, &finite);
  if (!finite) {  // a row that is not finite shows in its sum; only then are the rows searched
    fill(result, 0);
    ends = add_rows(x, of_finite_rows(x, indices), result, &finite);
  }
  const auto write = [&](auto* to) {
    using Count = std::remove_pointer_t<decltype(to)>;
    for (int64_t code = 0; code < num_codes; ++code) {
      to[code] = static_cast<Count>(ends[code] - (code ? ends[code - 1] : 0));
    }
  };
  void* const to = counts.data_ptr();
  counts.scalar_type() == ScalarType::Double ? write(static_cast<double*>(to)) : write(static_cast<float*>(to));
  return {counts, result};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gather_codes.cpp", TORCH_BOX(&dvae::gather));
  m.impl("code_sums.cpp", TORCH_BOX(&dvae::sums));
  m.impl("code_statistics.cpp", TORCH_BOX(&dvae::statistics));
}
