// Codes gathered, and rows summed by code, over the SIMD layer. Included once per target by foreach_target.h. Every
// column is added up in the order of the rows, so all targets and backends give the same bits.

#ifndef DVAE_TARGET  // for an editor
#include "codebook/arguments.h"
#include "simd/editor.h"
#endif

template <class T>
void gather_rows(const GatherArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename Compute<T>::type;
  const auto* codebook = static_cast<const T*>(args.codebook.data);
  for (int64_t i = begin; i < end; ++i) {
    T* const row = static_cast<T*>(args.output.data) + i * args.columns;
    const int64_t index = args.indices[i];
    if (index >= 0 && index < args.num_codes) {
      std::memcpy(row, codebook + index * args.codebook_stride, args.columns * sizeof(T));
    } else {
      std::fill(row, row + args.columns, store_from_compute<T>(index == kMasked ? Scalar(0) : kNaN<Scalar>));
    }
  }
}

template <class T>
void mask_rows(const FiniteRowsArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename Compute<T>::type;
  for (int64_t i = begin; i < end; ++i) {
    const T* const row = static_cast<const T*>(args.x.data) + i * args.x_stride;
    Scalar doubt = 0;  // and NaN if a value is not finite
    for (int64_t j = 0; j < args.columns; ++j) {
      const Scalar value = load_as_compute(row[j]);
      doubt += value - value;
    }
    if (doubt != 0) args.indices[i] = kMasked;
  }
}

constexpr int kSumVectors = 4;  // vectors of a row that are summed side by side

// Sums `count` rows, whose positions row(i) gives, into `to`. `doubt` stays 0 if all sums are finite, else it becomes
// NaN.
template <class F, class T, class Row>
void sum_rows(int64_t columns, int64_t count, const Row& row, typename F::Scalar* to, F (&doubt)[kSumVectors]) {
  using Scalar = typename F::Scalar;
  constexpr int width = kSumVectors;
  int64_t j = 0;
  for (; j + width * F::lanes <= columns; j += width * F::lanes) {
    F sums[width];
    for (int v = 0; v < width; ++v) sums[v] = F(0);
    for (int64_t i = 0; i < count; ++i) {
      const T* from = row(i) + j;
      for (int v = 0; v < width; ++v) sums[v] = sums[v] + F::load(from + v * F::lanes);
    }
    for (int v = 0; v < width; ++v) {
      sums[v].store(to + j + v * F::lanes);
      doubt[v] = fma(sums[v], F(0), doubt[v]);
    }
  }
  for (; j + F::lanes <= columns; j += F::lanes) {
    F sum(0);
    for (int64_t i = 0; i < count; ++i) sum = sum + F::load(row(i) + j);
    sum.store(to + j);
    doubt[0] = fma(sum, F(0), doubt[0]);
  }
  for (; j < columns; ++j) {
    Scalar sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += load_as_compute(row(i)[j]);
    to[j] = sum;
    doubt[0] = fma(F(sum), F(0), doubt[0]);
  }
}

template <class F, class T>
void sum_blocks(const CodeSumsArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const SortedRows& level = args.level;
  const int64_t columns = level.columns;
  const auto* rows = static_cast<const T*>(level.rows.data);
  auto* sums = static_cast<Scalar*>(args.sums.data);
  F doubt[kSumVectors];
  for (F& d : doubt) d = F(0);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlockRows, last = std::min(first + kBlockRows, level.count) - 1;
    const bool reaches_back = first > 0 && level.codes[first - 1] == level.codes[first];
    const bool continues = last + 1 < level.count && level.codes[last + 1] == level.codes[last];
    args.partial.codes[2 * block] = reaches_back ? level.codes[first] : level.num_codes;
    args.partial.codes[2 * block + 1] = continues ? level.codes[last] : level.num_codes;
    Scalar* const front = static_cast<Scalar*>(args.partial.rows) + 2 * block * columns;
    for (int64_t i = first, next; i <= last; i = next) {
      const int32_t code = level.codes[i];
      next = i + 1;
      while (next <= last && level.codes[next] == code) ++next;
      if (code == level.num_codes) continue;
      const bool open = i == first && reaches_back, cut = next > last && continues;
      Scalar* const to = open ? front : cut ? front + columns : sums + code * columns;
      const auto row = [&](int64_t r) { return rows + (level.order ? level.order[i + r] : i + r) * level.stride; };
      sum_rows<F, T>(columns, next - i, row, to, doubt);
      // one run through the whole block: its sum stands in front, and the back gets zeros
      if (open && cut) std::fill(front + columns, front + 2 * columns, Scalar(0));
    }
  }
  if (is_nan((doubt[0] + doubt[1]) + (doubt[2] + doubt[3])).any()) args.finite->store(false, std::memory_order_relaxed);
}

// The entries.

void gather_codes(const GatherArgs& args, int64_t begin, int64_t end) {
  visit(args.codebook.type, [&](auto storage) { gather_rows<decltype(storage)>(args, begin, end); });
}

void mask_rows_not_finite(const FiniteRowsArgs& args, int64_t begin, int64_t end) {
  visit(args.x.type, [&](auto storage) { mask_rows<decltype(storage)>(args, begin, end); });
}

void code_sums(const CodeSumsArgs& args, int64_t begin, int64_t end) {
  visit(args.level.rows.type, [&](auto storage) {
    using T = decltype(storage);
    sum_blocks<std::conditional_t<sizeof(T) == sizeof(double), F64, F32>, T>(args, begin, end);
  });
}
