// CPU backend of gathering, summing and counting codes.

#include "codebook/cpu.h"

#include "simd/intrinsics.h"

#include <atomic>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "codebook/tensors.h"
#include "torch/parallel.h"

#define DVAE_OP codebook
#include "simd/foreach_target.h"

namespace dvae {
namespace {

template <class T>
void gather_rows(const Tensor& codebook, const Tensor& indices, Tensor& out) {
  const int64_t codes = codebook.size(0), columns = codebook.size(1), stride = codebook.stride(0);
  const auto* from = static_cast<const T*>(codebook.const_data_ptr());
  const auto* index = static_cast<const int64_t*>(indices.const_data_ptr());
  auto* to = static_cast<T*>(out.mutable_data_ptr());
  constexpr int64_t thread_elements = 1 << 15;  // copies take half the time
  const auto gather = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const row = to + i * columns;
      if (index[i] >= 0 && index[i] < codes) {
        std::memcpy(row, from + index[i] * stride, columns * sizeof(T));
      } else {
        using Scalar = typename Compute<T>::type;
        std::fill(row, row + columns, store_from_compute<T>(index[i] == kMasked ? Scalar(0) : kNaN<Scalar>));
      }
    }
  };
  parallel_for(indices.numel(), columns, gather, thread_elements);
}

Tensor gather(Tensor codebook, Tensor indices) {
  Tensor out = new_gathered(codebook, indices);
  if (out.numel() == 0) return out;
  codebook = with_unit_columns(codebook);
  indices = torch::stable::contiguous(indices);
  visit(buffer_of(codebook).type, [&](auto storage) { gather_rows<decltype(storage)>(codebook, indices, out); });
  return out;
}

// Row numbers and codes in ascending order of code, equal ones in the order of rows; indices outside become `num_codes`,
// which come last. Returns the end of each code. A counting sort, by chunks of the rows side by side: each has a bin for
// every code, and so its own places in the result, which do not depend on how many chunks there are.
std::vector<int64_t> sort_by_code(
    const int64_t* indices, int64_t rows, int32_t num_codes, int64_t* order, int32_t* codes) {
  constexpr int64_t rows_per_thread = 1 << 12;
  const int64_t bins = int64_t{num_codes} + 1, threads = torch::stable::get_num_threads();
  const int64_t chunks = std::clamp<int64_t>(rows / std::max(bins, rows_per_thread), 1, threads);
  std::vector<int64_t> places(chunks * bins);
  const auto for_rows = [&](const auto& use) {
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        int64_t* const place = places.data() + chunk * bins;
        const int64_t last = rows * (chunk + 1) / chunks;
        for (int64_t i = rows * chunk / chunks; i < last; ++i) {
          const int32_t code = indices[i] >= 0 && indices[i] < num_codes ? static_cast<int32_t>(indices[i]) : num_codes;
          use(i, code, place[code]);
        }
      }
    });
  };
  for_rows([](int64_t, int32_t, int64_t& count) { ++count; });
  int64_t next = 0;
  for (int64_t code = 0; code < bins; ++code) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) next += std::exchange(places[chunk * bins + code], next);
  }
  for_rows([&](int64_t i, int32_t code, int64_t& place) {
    order[place] = i;
    codes[place++] = code;
  });
  places.erase(places.begin(), places.end() - bins);
  return places;
}

// Adds the rows of x to the sums of their codes, zeros before. Returns (the end of each code among the sorted rows,
// whether all sums are finite).
std::pair<std::vector<int64_t>, bool> add_rows(const Tensor& x, const Tensor& indices, Tensor& result) {
  const int64_t rows = x.size(0), columns = x.size(1), scratch = scratch_count(rows);
  const auto num_codes = static_cast<int32_t>(result.size(0));
  const Tensor order = new_vector(indices, rows, ScalarType::Long);
  const Tensor codes = new_vector(indices, rows + scratch, ScalarType::Int);
  const Tensor partial = new_vector(result, scratch * columns, result.scalar_type());
  auto* sorted = static_cast<int32_t*>(codes.mutable_data_ptr());
  auto* numbers = static_cast<int64_t*>(order.mutable_data_ptr());
  auto ends = sort_by_code(static_cast<const int64_t*>(indices.const_data_ptr()), rows, num_codes, numbers, sorted);
  std::atomic<bool> finite{true};
  const SortedRows level{buffer_of(x), x.stride(0), columns, numbers, sorted, rows, num_codes};
  for_levels(level, buffer_of(result).type, {partial.mutable_data_ptr(), sorted + rows},
             [&](const SortedRows& rows_now, const PartialRows& next) {
               const CodeSumsArgs args{rows_now, next, result.mutable_data_ptr(), &finite};
               parallel_for_tiles(args.tiles(), DVAE_DISPATCH(code_sums), args);
             });
  return {std::move(ends), finite};
}

Tensor sums(Tensor x, Tensor indices, int64_t num_codes) {
  Tensor result = new_sums("code_sums", x, indices, num_codes);
  if (x.numel() == 0 || num_codes == 0) return result;
  add_rows(with_unit_columns(x), torch::stable::contiguous(indices), result);
  return result;
}

template <class T>
void exclude_rows(const Tensor& x, int64_t* indices) {
  using Scalar = typename Compute<T>::type;
  const int64_t columns = x.size(1), stride = x.stride(0);
  const auto* values = static_cast<const T*>(x.const_data_ptr());
  parallel_for(x.size(0), columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Scalar doubt = 0;
      for (int64_t j = 0; j < columns; ++j) {
        const Scalar value = load_as_compute(values[i * stride + j]);
        doubt += value - value;
      }
      if (doubt != 0) indices[i] = kMasked;
    }
  });
}

// The indices with kMasked for rows of x that are not finite.
Tensor of_finite_rows(const Tensor& x, const Tensor& indices) {
  Tensor result = torch::stable::clone(indices);
  auto* data = static_cast<int64_t*>(result.mutable_data_ptr());
  visit(buffer_of(x).type, [&](auto storage) { exclude_rows<decltype(storage)>(x, data); });
  return result;
}

std::tuple<Tensor, Tensor> statistics(Tensor x, Tensor indices, int64_t num_codes) {
  Tensor result = new_sums("code_statistics", x, indices, num_codes);
  Tensor counts = torch::stable::new_zeros(x, {num_codes}, result.scalar_type());
  if (x.size(0) == 0 || num_codes == 0) return {counts, result};
  x = with_unit_columns(x);
  indices = torch::stable::contiguous(indices);
  auto [ends, finite] = add_rows(x, indices, result);
  if (!finite) {  // a row that is not finite shows in its sum, and is looked for only then
    torch::stable::zero_(result);
    ends = add_rows(x, of_finite_rows(x, indices), result).first;
  }
  const auto write = [&](auto* to) {
    using Count = std::remove_pointer_t<decltype(to)>;
    for (int64_t code = 0; code < num_codes; ++code) {
      to[code] = static_cast<Count>(ends[code] - (code ? ends[code - 1] : 0));
    }
  };
  void* const to = counts.mutable_data_ptr();
  result.scalar_type() == ScalarType::Double ? write(static_cast<double*>(to)) : write(static_cast<float*>(to));
  return {counts, result};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gather_codes.cpp", TORCH_BOX(&dvae::gather));
  m.impl("code_sums.cpp", TORCH_BOX(&dvae::sums));
  m.impl("code_statistics.cpp", TORCH_BOX(&dvae::statistics));
}
