// Elementwise operations over the SIMD layer: noise by element, and vectors of contiguous elements of any storage
// type. Part of the kernels of a target.

#include "simd/rows.h"

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
      row_.fill(low_word(group), words, count, [=]([[maybe_unused]] int begin, [[maybe_unused]] int end) {
        (prefetch_columns(inputs, begin, end), ...);
      });
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

// The same by blocks of elements (see for_blocks).
class BlockNoise {
 public:
  BlockNoise(const ElementBlocks& blocks, NoiseKey key) : blocks_(blocks), noise_(key) {}

  // Words of a block's elements, of which the first one lacks `lacking`.
  template <class... T>
  const uint32_t* draw(int64_t block, int elements, int lacking, const T*... inputs) {
    noise_.fill(blocks_.group + block * (kElementBlock / 4), bits_, lacking + elements, inputs...);
    return bits_ + lacking;
  }

 private:
  const ElementBlocks& blocks_;
  ElementNoise noise_;
  // a vector may be loaded that starts with the last element of a shifted block
  alignas(64) uint32_t bits_[kElementBlock + 16];
};

// Uniform noise eps = (bits + 1/2) / 2^32 and rest = 1 - eps, each with its relative accuracy.
template <class F>
struct Uniform;
template <>
struct Uniform<F32> {
  F32 eps, rest;
  explicit Uniform(const uint32_t* bits) {
    const U32 k = U32::load(bits);
    eps = fma(to_float(k), F32(0x1p-32f), F32(0x1p-33f));
    rest = fma(to_float(complement(k)), F32(0x1p-32f), F32(0x1p-33f));
  }
};
template <>
struct Uniform<F64> {
  F64 eps, rest;
  explicit Uniform(const uint32_t* bits) : eps((*bits + 0.5) * 0x1p-32), rest((~*bits + 0.5) * 0x1p-32) {}
};

// Logistic noise over ln 2: log2(eps / (1 - eps)). A ratio of rounded numbers has an absolute error of 1e-7 in its
// logarithm, and one logarithm is enough.
inline F32 log2_odds(const Functions<F32>& f, const uint32_t* bits) {
  const Uniform<F32> u(bits);
  return f.log2(u.eps * reciprocal(u.rest));
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
[[gnu::always_inline]] inline void put_elements(T* to, int elements, bool stream, const Value& value) {
  constexpr int step = 4 * F::lanes;
  const int whole = elements / step * step;
  for (int first = 0; first < whole; first += step) {
    F x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x[i] = value(first + i * F::lanes, AllLanes<F>());
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store_elements(x[i], to + first + i * F::lanes, AllLanes<F>(), stream);
  }
  // not for_vectors: where a reference to `value` leaves this function, what it holds is loaded again for every vector
  int j = whole;
  for (; j + F::lanes <= elements; j += F::lanes) {
    store_elements(value(j, AllLanes<F>()), to + j, AllLanes<F>(), stream);
  }
  if (j < elements) store_elements<F>(value(j, elements - j), to + j, elements - j, stream);
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

// The elements of a tensor by blocks in the compute type: where they are, or converted.
template <class F>
class BlockReader {
 public:
  using Scalar = typename F::Scalar;
  explicit BlockReader(const Buffer& tensor) : tensor_(tensor) {}

  // The elements from `first`, until the next call.
  const Scalar* open(int64_t first, int elements) {
    if (tensor_.type == storage_of<Scalar>) return static_cast<const Scalar*>(tensor_.data) + first;
    with_storage<Scalar>(tensor_.type, [&](auto storage) {
      const auto* from = static_cast<const decltype(storage)*>(tensor_.data) + first;
      Scalar* to = converted_;
      for_vectors<F>(0, elements, [=](int64_t j, auto count) { load_elements<F>(from + j, count).store(to + j); });
    });
    return converted_;
  }

 private:
  Buffer tensor_;
  alignas(64) Scalar converted_[kElementBlock + F::lanes];
};

// The same for a tensor that is written, through the caches: the pages of a large new one are still there from being
// zeroed.
template <class F>
class BlockWriter {
 public:
  using Scalar = typename F::Scalar;
  explicit BlockWriter(const Buffer& tensor) : tensor_(tensor) {}

  // Where to write the elements from `first`; close() brings them home.
  Scalar* open(int64_t first) { return in_place() ? static_cast<Scalar*>(tensor_.data) + first : converted_; }
  void close(int64_t first, int elements) {
    if (in_place()) return;
    with_storage<Scalar>(tensor_.type, [&](auto storage) {
      auto* to = static_cast<decltype(storage)*>(tensor_.data) + first;
      const Scalar* from = converted_;
      for_vectors<F>(0, elements, [=](int64_t j, auto count) {
        store_elements<F>(load_elements<F>(from + j, count), to + j, count, false);
      });
    });
  }
  // Writes value(element, count) by four vectors, as put_elements does.
  template <class Value>
  [[gnu::always_inline]] void put(int64_t first, int elements, const Value& value) {
    Scalar* to = open(first);
    put_elements<F>(to, elements, false, value);
    close(first, elements);
  }
  // The same by single vectors: a third of the code.
  template <class Value>
  void put_singly(int64_t first, int elements, const Value& value) {
    Scalar* to = open(first);
    for_vectors<F>(0, elements, [&](int64_t j, auto count) {
      store_elements<F>(value(j, count), to + j, count, false);
    });
    close(first, elements);
  }

 private:
  bool in_place() const { return tensor_.type == storage_of<Scalar>; }

  Buffer tensor_;
  alignas(64) Scalar converted_[kElementBlock + F::lanes];
};
