// CPU backend of gathering and summing codes.

#include "codebook/cpu.h"

#include "common/intrinsics.h"

#include <cmath>
#include <vector>

#include "codebook/tensors.h"
#include "common/parallel.h"

#define DVAE_KERNELS "codebook/cpu_kernels.h"
#include "common/for_each_target.h"

namespace dvae {
namespace {

template <class T>
void gather_rows(const Tensor& codebook, const Tensor& indices, Tensor& out) {
  const int64_t codes = codebook.size(0), columns = codebook.size(1), stride = codebook.stride(0);
  const auto* from = static_cast<const T*>(codebook.const_data_ptr());
  const auto* index = static_cast<const int64_t*>(indices.const_data_ptr());
  auto* to = static_cast<T*>(out.mutable_data_ptr());
  constexpr int64_t elements_per_thread = 1 << 15;
  const int64_t grain = std::max<int64_t>(elements_per_thread / columns, 1);
  torch::stable::parallel_for(0, indices.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const row = to + i * columns;
      if (index[i] >= 0 && index[i] < codes) {
        std::memcpy(row, from + index[i] * stride, columns * sizeof(T));
      } else {
        using Scalar = typename Compute<T>::type;
        std::fill(row, row + columns, store_from_compute<T>(index[i] == -1 ? Scalar(0) : kNaN<Scalar>));
      }
    }
  });
}

Tensor gather(Tensor codebook, Tensor indices) {
  Tensor out = new_gathered(codebook, indices);
  if (out.numel() == 0) return out;
  codebook = with_unit_columns(codebook);
  indices = torch::stable::contiguous(indices);
  const auto run = [&](auto storage) { gather_rows<decltype(storage)>(codebook, indices, out); };
  const Storage type = buffer_of(codebook).type;
  type == Storage::float64 ? with_storage<double>(type, run) : with_storage<float>(type, run);
  return out;
}

// Row numbers and codes in ascending order of code, equal ones in the order of rows: a counting sort. Codes outside
// become `num_codes`, which come last.
void sort_by_code(const int64_t* indices, int64_t rows, int32_t num_codes, int64_t* order, int32_t* codes) {
  const auto code_of = [&](int64_t i) {
    return indices[i] >= 0 && indices[i] < num_codes ? static_cast<int32_t>(indices[i]) : num_codes;
  };
  std::vector<int64_t> next(num_codes + 2);  // where the next row of each code goes
  for (int64_t i = 0; i < rows; ++i) ++next[code_of(i) + 1];
  for (int32_t code = 0; code < num_codes; ++code) next[code + 1] += next[code];
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t code = code_of(i);
    const int64_t place = next[code]++;
    order[place] = i;
    codes[place] = code;
  }
}

Tensor sums(Tensor x, Tensor indices, int64_t num_codes) {
  Tensor result = new_sums(x, indices, num_codes);
  const int64_t rows = x.size(0), columns = x.size(1);
  if (x.numel() == 0 || num_codes == 0) return result;
  x = with_unit_columns(x);
  indices = torch::stable::contiguous(indices);
  const int64_t scratch = scratch_count(rows);
  const Tensor order = new_vector(indices, rows, ScalarType::Long);
  const Tensor codes = new_vector(indices, rows + scratch, ScalarType::Int);
  const Tensor partial = new_vector(result, scratch * columns, result.scalar_type());
  auto* sorted = static_cast<int32_t*>(codes.mutable_data_ptr());
  const auto* numbers = static_cast<const int64_t*>(order.const_data_ptr());
  sort_by_code(
      static_cast<const int64_t*>(indices.const_data_ptr()), rows, static_cast<int32_t>(num_codes),
      static_cast<int64_t*>(order.mutable_data_ptr()), sorted);
  const SortedRows level{buffer_of(x), x.stride(0), columns, numbers, sorted, rows, static_cast<int32_t>(num_codes)};
  for_levels(level, buffer_of(result).type, {partial.mutable_data_ptr(), sorted + rows},
             [&](const SortedRows& rows_now, const PartialRows& next) {
               const CodeSumsArgs args{rows_now, next, result.mutable_data_ptr()};
               parallel_for_tiles(args.tiles(), DVAE_DISPATCH(code_sums), args);
             });
  return result;
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gather_codes.cpp", TORCH_BOX(&dvae::gather));
  m.impl("code_sums.cpp", TORCH_BOX(&dvae::sums));
}
