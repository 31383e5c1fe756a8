// The CUDA kernels of gathering, summing and counting codes, and the choice among them; nothing here needs torch, so
// that the host shim can run it all.
#pragma once

#include "codebook/levels.h"
#include "common/numerics.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace dvae {

// Rows are copied in words, whatever they hold.
template <class Word>
struct GatherWords {
  const Word* codebook;
  int64_t codes, stride;  // in words
  const int64_t* indices;
  Word* output;
  Word nan;  // filled with NaN
};

template <class Word>
__global__ void __launch_bounds__(kMaxThreads) gather_codes_kernel(RowPlan plan, GatherWords<Word> args) {
  const RowPlace place(plan);
  if (!place.chunks) return;
  const int64_t index = args.indices[place.row];
  const bool inside = index >= 0 && index < args.codes;
  const Word* from = args.codebook + (inside ? index : 0) * args.stride;
  Word* to = args.output + place.row * plan.columns;
  Word outside{};
  if (index != kMasked) outside = args.nan;
  for (uint32_t i = place.lane; i < place.chunks; i += place.lanes) to[i] = inside ? from[i] : outside;
}

// Indices as sort keys: num_codes for rows that take no part, so that they come last.
template <class Key>
__global__ void __launch_bounds__(kMaxThreads) code_keys_kernel(
    RowPlan plan, const int64_t* indices, Key num_codes, Key* keys) {
  const RowPlace place(plan);
  if (!place.chunks) return;
  const int64_t index = indices[place.row];
  keys[place.row] = index >= 0 && index < num_codes ? static_cast<Key>(index) : num_codes;
}

// The same, with num_codes for rows of the input that are not finite as well.
template <class Input, class Key>
__global__ void __launch_bounds__(kMaxThreads) finite_code_keys_kernel(
    RowPlan plan, const int64_t* indices, Key num_codes, Input input, Key* keys) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const int64_t index = place.chunks ? indices[place.row] : kMasked;
  const bool inside = index >= 0 && index < num_codes;
  Acc doubt = 0;  // and NaN where a value is not finite
  const auto row = input.row(place);
  for (uint32_t chunk = place.lane; inside && chunk < place.chunks; chunk += place.lanes) {
    Acc x[kChunk];
    row.load(chunk, x, 0);
#pragma unroll
    for (const Acc value : x) doubt += value - value;
  }
  doubt = reduce_row(plan, place, doubt, RowShared{memory, plan}.template states<Acc>(0, 0),
                     [](Acc& a, Acc b) { a += b; });
  if (place.lane || !place.chunks) return;
  keys[place.row] = inside && doubt == 0 ? static_cast<Key>(index) : num_codes;
}

// Counts rows by code. A thread's place is the code.
template <class Count>
__global__ void __launch_bounds__(kMaxThreads) code_counts_kernel(
    RowPlan plan, const int32_t* codes, int64_t rows, Count* counts) {
  const RowPlace place(plan);
  if (!place.chunks) return;
  // the first of the ascending codes that is `least` or more
  const auto lower_bound = [&](int64_t least) {
    int64_t first = 0, count = rows;
    while (count > 0) {
      const int64_t half = count / 2;
      const bool below = codes[first + half] < least;
      first = below ? first + half + 1 : first;
      count = below ? count - half - 1 : half;
    }
    return first;
  };
  counts[place.row] = static_cast<Count>(lower_bound(place.row + 1) - lower_bound(place.row));
}

// Every thread walks over the rows of one block of sorted rows, for its own columns. Its place is the block.
template <class Input, class Output>
__global__ void __launch_bounds__(kMaxThreads) code_sums_kernel(
    RowPlan plan, SortedRows level, PartialRows partial, Input input, Output sums, Output partial_rows) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk, kBatch = 2 * Input::kBatch;  // rows whose loads are in flight together
  const RowPlace place(plan);
  if (!place.chunks) return;
  const int64_t first = place.row * kBlockRows;
  const int64_t end = first + kBlockRows < level.count ? first + kBlockRows : level.count;
  const int32_t none = level.num_codes, first_code = level.codes[first], last_code = level.codes[end - 1];
  const bool reaches_back = first > 0 && level.codes[first - 1] == first_code;
  const bool continues = end < level.count && level.codes[end] == last_code;
  if (place.lane == 0) {
    partial.codes[2 * place.row] = reaches_back ? first_code : none;
    partial.codes[2 * place.row + 1] = continues ? last_code : none;
  }
  const auto row_of = [&](const auto& tensor, int64_t row) {
    RowPlace at = place;
    at.outer_index = row;
    return tensor.row(at);
  };
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc total[kChunk] = {};
    int32_t code = first_code;
    bool open = reaches_back;
    // stores the sum of a whole run, or the partial sum of a run that crosses the front or the back of the block
    const auto finish = [&](bool cut) {
      if (code == none) return;
      const auto to = open ? row_of(partial_rows, 2 * place.row)
                           : cut ? row_of(partial_rows, 2 * place.row + 1) : row_of(sums, code);
      to.store(chunk, total);
    };
    for (int64_t i = first; i < end; i += kBatch) {
      int32_t codes[kBatch];
      int64_t rows[kBatch];
      Acc x[kBatch][kChunk];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        codes[b] = none;
        rows[b] = i + b;
        if (i + b >= end) continue;
        codes[b] = level.codes[i + b];
        if (level.order) rows[b] = level.order[i + b];
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (codes[b] != none) row_of(input, rows[b]).load(chunk, x[b], 0);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (i + b >= end) break;
        if (codes[b] != code) {
          finish(false);
          code = codes[b];
          open = false;
#pragma unroll
          for (Acc& t : total) t = 0;
        }
        if (code == none) continue;
#pragma unroll
        for (int c = 0; c < kChunk; ++c) total[c] += x[b][c];
      }
    }
    finish(continues);
    if (open && continues && code != none) {
      // one run through the whole block: its sum stands in front, and the back gets zeros
      const Acc zero[kChunk] = {};
      row_of(partial_rows, 2 * place.row + 1).store(chunk, zero);
    }
  }
}

// Whether rows can be copied in 16-byte words.
inline bool gathers_vectors(const Buffer& codebook, int64_t stride, int64_t columns) {
  const int64_t size = size_of(codebook.type);
  return columns * size % 16 == 0 && stride * size % 16 == 0 &&
         reinterpret_cast<uintptr_t>(codebook.data) % 16 == 0;
}

// A word with NaN in every element of `type`.
template <class Word>
Word nan_word(Storage type) {
  unsigned char bytes[sizeof(Bits128)];
  visit(type, [&](auto element) {
    using T = decltype(element);
    const T nan = store_from_compute<T>(kNaN<typename Compute<T>::type>);
    for (size_t i = 0; i < sizeof(bytes); i += sizeof(T)) memcpy(bytes + i, &nan, sizeof(T));
  });
  Word word;
  memcpy(&word, bytes, sizeof(word));
  return word;
}

inline void gather_codes(Stream stream, const GatherArgs& args) {
  const int64_t size = size_of(args.codebook.type);
  const auto copy_as = [&](auto word) {
    using Word = decltype(word);
    const auto words = [&](int64_t elements) { return elements * size / static_cast<int64_t>(sizeof(Word)); };
    const GatherWords<Word> rows{
        static_cast<const Word*>(args.codebook.data), args.num_codes, words(args.codebook_stride), args.indices,
        static_cast<Word*>(args.output.data), nan_word<Word>(args.codebook.type)};
    const RowPlan plan = plan_rows<float>(args.rows, 1, words(args.columns), 1, false, 0, 0);
    launch(plan, stream, gather_codes_kernel<Word>, rows);
  };
  if (gathers_vectors(args.codebook, args.codebook_stride, args.columns)) {
    copy_as(Bits128{});
  } else {
    size == 8 ? copy_as(uint64_t{}) : size == 4 ? copy_as(uint32_t{}) : copy_as(uint16_t{});
  }
}

inline void code_keys(Stream stream, const CodeKeysArgs& args) {
  if (args.x.data == nullptr) {
    const RowPlan plan = plan_rows<float>(args.rows, 1, 1, 1, false, 0, 0);
    return launch(plan, stream, code_keys_kernel<int32_t>, args.indices, args.num_codes, args.keys);
  }
  const RowStrides in{args.x_stride, 1, 0};
  const int chunk = vector_chunk<1>({args.rows, args.columns, 1, {in}}, {args.x});
  with_tensor_type(chunk, args.x.type, [&](auto type) {
    using Input = typename decltype(type)::type;
    using Acc = typename Input::Acc;
    const RowPlan plan =
        plan_rows<Acc>(args.rows, 1, args.columns, chunk ? Input::kChunk : 4, false, 0, shared_limit());
    launch(plan, stream, finite_code_keys_kernel<Input, int32_t>, args.indices, args.num_codes, Input(args.x, in),
           args.keys);
  });
}

inline void code_counts(Stream stream, const CodeCountsArgs& args) {
  const RowPlan plan = plan_rows<float>(args.num_codes, 1, 1, 1, false, 0, 0);
  const auto count_as = [&](auto count) {
    using Count = decltype(count);
    launch(plan, stream, code_counts_kernel<Count>, args.codes, args.rows, static_cast<Count*>(args.counts.data));
  };
  args.counts.type == Storage::float64 ? count_as(double()) : count_as(float());
}

// Calls call(tensor types of the rows and of their sums); chunk as from vector_chunk.
template <class Call>
void with_sum_types(int chunk, Storage type, const Call& call) {
  if (type == Storage::float64) {
    call(TensorTypes<StridedTensor<double>, StridedTensor<double>>{});
  } else if (chunk == 0) {
    call(TensorTypes<StridedTensor<float>, StridedTensor<float>>{});
  } else {
    visit<float>(type, [&](auto row) {
      using Row = decltype(row);
      call(TensorTypes<VectorTensorOf<Row>, VectorTensorOf<float, Row>>{});
    });
  }
}

inline void code_sums(Stream stream, const CodeSumsArgs& all) {
  for_levels(all, [&](const CodeSumsArgs& args) {
    const SortedRows& level = args.level;
    const Storage compute = args.sums.type;
    const RowStrides in{level.stride, 1, 0}, out{level.columns, 1, 0};
    const int chunk = vector_chunk<1>({level.count, level.columns, 1, {in}}, {level.rows});
    with_sum_types(chunk, level.rows.type, [&](auto types) {
      using Input = typename decltype(types)::Narrow;
      using Output = typename decltype(types)::Wide;
      const RowPlan plan = plan_rows<float>(level.blocks(), 1, level.columns, chunk ? chunk : 4, false, 0, 0);
      launch(plan, stream, code_sums_kernel<Input, Output>, level, args.partial, Input(level.rows, in),
             Output(args.sums, out), Output({args.partial.rows, compute}, out));
    });
  });
}

}  // namespace dvae
