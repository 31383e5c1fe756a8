// Elementwise operations over the SIMD layer: noise by element, and vectors of contiguous elements of any storage
// type. Part of the kernels of a target.

#include "common/row_io.h"

// The noise integers of blocks of elements.
class ElementNoise {
 public:
  explicit ElementNoise(NoiseKey key) : key_(key), row_(key.key, key.offset) {}

  // Words of the elements from 4 * group; `count` is rounded up to whole steps of RowNoise, `words` is aligned to 64
  // bytes. Asks for those elements of the inputs meanwhile.
  template <class... T>
  void fill(uint64_t group, uint32_t* words, int count, const T*... inputs) {
    const uint64_t last = group + (count + RowNoise::step - 1) / 4;
    if (high_word(group) == high_word(last)) {
      row_.set_row(high_word(group));
      row_.fill(low_word(group), words, count, [=](int begin, int end) { (prefetch_columns(inputs, begin, end), ...); });
      return;
    }
    for (int j = 0; j < count; j += 4) {
      const Philox4x32 four = element_words(key_.key, key_.offset, group + j / 4);
      std::memcpy(words + j, four.word, sizeof(four.word));
    }
  }

 private:
  NoiseKey key_;
  RowNoise row_;
};

// Logistic noise over ln 2: log2(u / (1 - u)), u = (bits + 1/2) / 2^32. A ratio of rounded numbers has an absolute
// error of 1e-7 in its logarithm, and one logarithm is enough.
inline F32 log2_odds(const Functions<F32>& f, const uint32_t* bits) {
  const U32 k = U32::load(bits);
  const F32 u = fma(to_float(k), F32(0x1p-32f), F32(0x1p-33f));
  const F32 v = fma(to_float(complement(k)), F32(0x1p-32f), F32(0x1p-33f));
  return f.log2(u * reciprocal(v));
}
inline F64 log2_odds(const Functions<F64>& f, const uint32_t* bits) {
  const uint32_t others = ~*bits;
  return f.exponential(bits) - f.exponential(&others);
}

template <class F>
F absolute(F x) {
  return max(x, F(0) - x);
}

// The first `count` elements at p (see for_vectors), zero in the other lanes.
template <class F, class T>
F load_elements(const T* p, AllLanes<F>) {
  return F::load(p);
}
template <class F, class T>
F load_elements(const T* p, int count) {
  T lanes[F::lanes] = {};
  std::memcpy(lanes, p, count * sizeof(T));
  return F::load(lanes);
}

// Writes the first `count` lanes, past the caches where asked and possible.
template <class F, class T>
void store_elements(F x, T* p, AllLanes<F>, bool stream) {
  if constexpr (std::is_same_v<T, typename F::Scalar>) {
    if (stream) return x.stream(p);
  }
  x.store(p);
}
template <class F, class T>
void store_elements(F x, T* p, int count, bool) {
  T lanes[F::lanes];
  x.store(lanes);
  std::memcpy(p, lanes, count * sizeof(T));
}

// Writes value(element, count) for the vectors of elements, by four: one alone would wait for its own results.
template <class F, class T, class Value>
void put_elements(T* to, int elements, bool stream, const Value& value) {
  constexpr int step = 4 * F::lanes;
  const int whole = elements / step * step;
  for (int first = 0; first < whole; first += step) {
    F x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x[i] = value(first + i * F::lanes, AllLanes<F>());
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store_elements(x[i], to + first + i * F::lanes, AllLanes<F>(), stream);
  }
  for_vectors<F>(whole, elements, [&](int64_t j, auto count) {
    store_elements<F>(value(j, count), to + j, count, stream);
  });
}

// Calls run(block, first element, elements, words before the first) for the blocks [begin, end).
template <class Run>
void for_blocks(const ElementBlocks& blocks, int64_t begin, int64_t end, const Run& run) {
  for (int64_t b = begin; b < end; ++b) {
    const int lacking = b == 0 ? blocks.shift : 0;
    const int64_t first = b * kElementBlock - blocks.shift + lacking;
    const int64_t left = std::max<int64_t>(blocks.count - first, 0);
    run(b, first, static_cast<int>(std::min<int64_t>(left, kElementBlock - lacking)), lacking);
  }
}

// Whether vectors can be written past the caches from here on.
inline bool streams(bool wanted, const void* p) { return wanted && reinterpret_cast<uintptr_t>(p) % 64 == 0; }
