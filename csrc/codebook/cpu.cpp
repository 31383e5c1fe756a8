// CPU backend of gathering, summing and counting codes.

#include "simd/intrinsics.h"

#include "codebook/sort.h"
#include "codebook/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP codebook
#include "simd/foreach_target.h"

namespace dvae {
namespace {

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

// The indices with kMasked for rows of x that are not finite.
Tensor of_finite_rows(const Tensor& x, const Tensor& indices) {
  const Tensor result = torch::stable::clone(indices);
  const FiniteRowsArgs args{x.size(0), x.size(1), buffer_of(x), x.stride(0), index_data(result)};
  parallel_for_rows(DVAE_DISPATCH(mask_rows_not_finite), args);
  return result;
}

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void run(const GatherArgs& args) const {
    constexpr int64_t thread_elements = 1 << 15;  // copies take half the time
    parallel_for_rows(DVAE_DISPATCH(gather_codes), args, thread_elements);
  }

  void add_rows(const Tensor& x, const Tensor& indices, const Tensor& sums) const {
    std::atomic<bool> finite{true};
    dvae::add_rows(x, indices, sums, &finite);
  }

  void add_finite_rows(const Tensor& x, const Tensor& indices, const Tensor& counts, const Tensor& sums) const {
    std::atomic<bool> finite{true};
    auto ends = dvae::add_rows(x, indices, sums, &finite);
    if (!finite) {  // a row that is not finite shows in its sum; only then are the rows searched
      fill(sums, 0);
      ends = dvae::add_rows(x, of_finite_rows(x, indices), sums, &finite);
    }
    const auto write = [&](auto* to) {
      using Count = std::remove_pointer_t<decltype(to)>;
      for (int64_t code = 0; code < counts.numel(); ++code) {
        to[code] = static_cast<Count>(ends[code] - (code ? ends[code - 1] : 0));
      }
    };
    void* const to = counts.data_ptr();
    counts.scalar_type() == ScalarType::Double ? write(static_cast<double*>(to)) : write(static_cast<float*>(to));
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gather_codes.cpp", TORCH_BOX(&dvae::gather_codes<dvae::Cpu>));
  m.impl("code_sums.cpp", TORCH_BOX(&dvae::code_sums<dvae::Cpu>));
  m.impl("code_statistics.cpp", TORCH_BOX(&dvae::code_statistics<dvae::Cpu>));
}
