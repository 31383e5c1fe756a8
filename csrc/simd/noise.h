// The noise integers of rows, of rows side by side and of elements, and noise from them.

inline uint32_t low_word(uint64_t x) { return static_cast<uint32_t>(x); }
inline uint32_t high_word(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

// Philox's round keys.
struct KeySchedule {
  static constexpr uint32_t m0 = 0xD2511F53, m1 = 0xCD9E8D57;
  uint32_t k0[10], k1[10];

  explicit KeySchedule(uint64_t key) {
    uint32_t a = low_word(key), b = high_word(key);
    for (int round = 0; round < 10; ++round, a += 0x9E3779B9, b += 0xBB67AE85) {
      k0[round] = a;
      k1[round] = b;
    }
  }
};

// The noise integers of a row (see _rng.py), counters (group, row, offset, draw). Counter words that do not vary along the
// row are folded into per-row constants, so that the first two rounds cost one multiplication each instead of two.
class RowNoise {
 public:
  // fill() writes whole steps of this many columns
  static constexpr int step = 4 * F32::lanes;

  explicit RowNoise(NoiseKey key) : keys_(key.key), offset_product_(uint64_t{KeySchedule::m1} * key.offset) {}

  void set_row(uint32_t row, uint32_t draw = 0) {
    round1_high_ = keys_.k1[0] ^ draw;
    const uint64_t product = uint64_t{KeySchedule::m0} * (high_word(offset_product_) ^ row ^ keys_.k0[0]);
    round2_high_ = low_word(offset_product_) ^ keys_.k0[1];
    round2_low_ = high_word(product) ^ keys_.k1[1];
    round3_low_ = low_word(product) ^ keys_.k1[2];
  }

  // Words of columns 4 * group onwards; `count` is rounded up to whole steps, `words` is aligned to 64 bytes. Calls
  // meanwhile(begin, end) for the columns of every few steps: what waits for memory overlaps with the arithmetic.
  template <class Meanwhile>
  void fill(uint32_t group, uint32_t* words, int count, const Meanwhile& meanwhile) const {
    constexpr int in_flight = 4;  // hides the latency of the multiplier
    constexpr int few = step / block;
    int done = 0;
    for (; done + in_flight * block <= count; done += in_flight * block) {
      blocks<in_flight>(group + done / 4, words + done);
      meanwhile(done, done + in_flight * block);
    }
    for (; done < count; done += few * block) {
      blocks<few>(group + done / 4, words + done);
      meanwhile(done, done + few * block);
    }
  }

 private:
  static constexpr int block = 4 * W64::lanes;

  template <int N>
  void blocks(uint32_t group, uint32_t* words) const {
    const W64 m0 = W64::set(KeySchedule::m0), m1 = W64::set(KeySchedule::m1);
    W64 c0[N], c1[N], c2[N], c3[N];
#pragma GCC unroll 4
    for (int b = 0; b < N; ++b) {
      const W64 p0 = multiply(W64::counters(group + b * W64::lanes), m0);
      const W64 p1 = multiply(xor2(high(p0), W64::set(round1_high_)), m1);
      const W64 q0 = multiply(xor2(high(p1), W64::set(round2_high_)), m0);
      const W64 q1 = multiply(xor2(p0, W64::set(round2_low_)), m1);
      c0[b] = xor3(high(q1), p1, W64::set(keys_.k0[2]));
      c1[b] = q1;
      c2[b] = xor2(high(q0), W64::set(round3_low_));
      c3[b] = q0;
    }
    for (int round = 3; round < 9; ++round) {
      const W64 k0 = W64::set(keys_.k0[round]), k1 = W64::set(keys_.k1[round]);
#pragma GCC unroll 4
      for (int b = 0; b < N; ++b) {
        const W64 p0 = multiply(c0[b], m0), p1 = multiply(c2[b], m1);
        c0[b] = xor3(high(p1), c1[b], k0);
        c2[b] = xor3(high(p0), c3[b], k1);
        c1[b] = p1;
        c3[b] = p0;
      }
    }
    const W64 k0 = W64::set(keys_.k0[9]), k1 = W64::set(keys_.k1[9]);
#pragma GCC unroll 4
    for (int b = 0; b < N; ++b) {
      const W64 p0 = multiply(c0[b], m0), p1 = multiply(c2[b], m1);
      store_words(low_xor_then_high(p1, c1[b], k0), low_xor_then_high(p0, c3[b], k1), words + b * block);
    }
  }

  KeySchedule keys_;
  uint64_t offset_product_;
  uint32_t round1_high_ = 0, round2_high_ = 0, round2_low_ = 0, round3_low_ = 0;
};

// The same integers for F32::lanes consecutive rows side by side, one row a lane.
class ColumnNoise {
 public:
  explicit ColumnNoise(NoiseKey key) : keys_(key.key), offset_product_(uint64_t{KeySchedule::m1} * key.offset) {}

  void set_rows(uint32_t first) {
    const W64 mask = W64::set(high_word(offset_product_) ^ keys_.k0[0]);
    for (int i = 0; i < W64::per_vector; ++i) {
      round2_[i] = multiply(xor2(W64::rows(first, i), mask), W64::set(KeySchedule::m0));
    }
  }

  // Words of columns 4 * group .. 4 * group + 3, each as F32::lanes rows; `words` is aligned to 64 bytes.
  void fill(uint32_t group, uint32_t* words) const {
    constexpr int n = W64::per_vector;
    const W64 m0 = W64::set(KeySchedule::m0), m1 = W64::set(KeySchedule::m1);
    // What depends on the group alone of the first three rounds; round2_ is what depends on the row alone.
    const uint64_t first = uint64_t{KeySchedule::m0} * group;
    const uint64_t second = uint64_t{KeySchedule::m1} * (high_word(first) ^ keys_.k1[0]);
    const uint64_t third = uint64_t{KeySchedule::m0} * (high_word(second) ^ low_word(offset_product_) ^ keys_.k0[1]);
    W64 c0[n], c1[n], c2[n], c3[n];
    for (int i = 0; i < n; ++i) {
      c1[i] = multiply(xor2(high(round2_[i]), W64::set(low_word(first) ^ keys_.k1[1])), m1);
      c0[i] = xor2(high(c1[i]), W64::set(low_word(second) ^ keys_.k0[2]));
      c2[i] = xor2(round2_[i], W64::set(high_word(third) ^ keys_.k1[2]));
      c3[i] = W64::set(low_word(third));
    }
    for (int round = 3; round < 10; ++round) {
      const W64 k0 = W64::set(keys_.k0[round]), k1 = W64::set(keys_.k1[round]);
      for (int i = 0; i < n; ++i) {
        const W64 a = multiply(c0[i], m0), b = multiply(c2[i], m1);
        c0[i] = xor3(high(b), c1[i], k0);
        c2[i] = xor3(high(a), c3[i], k1);
        c1[i] = b;
        c3[i] = a;
      }
    }
    store_rows(c0, words);
    store_rows(c1, words + F32::lanes);
    store_rows(c2, words + 2 * F32::lanes);
    store_rows(c3, words + 3 * F32::lanes);
  }

 private:
  KeySchedule keys_;
  uint64_t offset_product_;
  W64 round2_[W64::per_vector];
};

// The noise integers of blocks of elements.
class ElementNoise {
 public:
  explicit ElementNoise(NoiseKey key) : key_(key), row_(key) {}

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
