// The passes of nearest_code: how each packs rows and codes into words, and multiplies them.
// Included once per target by foreach_target.h.

#ifndef DVAE_TARGET  // for an editor
#include "nearest_code/arguments.h"
#include "simd/editor.h"
#endif

constexpr int kCodeVectors = F32::lanes == 16 ? 4 : 2;

// sum of a_d b_d in any order
template <class A, class B>
double quick_dot(const A* a, const B* b, int64_t columns) {
  Doubles even(0.0), odd(0.0);
  int64_t d = 0;
  for (; d + 2 * Doubles::lanes <= columns; d += 2 * Doubles::lanes) {
    even = fma(Doubles::load(a + d), Doubles::load(b + d), even);
    odd = fma(Doubles::load(a + d + Doubles::lanes), Doubles::load(b + d + Doubles::lanes), odd);
  }
  double sum = reduce_add(even + odd);
  for (; d < columns; ++d) sum += static_cast<double>(a[d]) * b[d];
  return sum;
}

// Dot products of one row with the codes of one lane, one in each of kCodeVectors vectors: calls take(v, product).
template <class T, class Take>
[[gnu::always_inline]] inline void quick_dots(
    const T* x, const T* const (&codes)[kCodeVectors], int64_t columns, const Take& take) {
  Doubles sums[kCodeVectors];
  for (Doubles& sum : sums) sum = Doubles(0.0);
  int64_t d = 0;
  for (; d + Doubles::lanes <= columns; d += Doubles::lanes) {
    const Doubles row = Doubles::load(x + d);
#pragma GCC unroll 4
    for (int v = 0; v < kCodeVectors; ++v) sums[v] = fma(row, Doubles::load(codes[v] + d), sums[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kCodeVectors; ++v) {
    double sum = reduce_add(sums[v]);
    for (int64_t i = d; i < columns; ++i) sum += static_cast<double>(x[i]) * codes[v][i];
    take(v, sum);
  }
}

// The terms of a tile of codes: the exact pass alone takes the definition's last step.
struct TileTerms {
  const double *scales, *offsets;
};

// Measures of a packed row or code, in its scale: squared norm, squared distance to the unpacked values, and sum.
struct Packed {
  float square, error = 0;
  int32_t sum = 0;
};

struct FloatPass {
  using Word = float;
  using Lane = float;
  using Sums = F32;
  static constexpr CodePass kPass = CodePass::floats;

  static F32 spread(float word) { return F32(word); }
  static F32 multiply_add(F32 x, F32 codes, F32 sum) { return fma(x, codes, sum); }
  static F32 finish(F32 sum, const TileTerms&, int) { return sum; }

  // Packs values / scale into words that are `step` apart.
  static Packed pack(const float* values, int64_t columns, float inverse_scale, int, float* words, int64_t step) {
    F32 square(0.0f);
    for (int64_t d = 0; d < columns; d += F32::lanes) {
      const F32 x = F32::load(values + d) * F32(inverse_scale);
      square = fma(x, x, square);
    }
    for (int64_t d = 0; d < columns; ++d) words[d * step] = values[d] * inverse_scale;
    return {reduce_add(square)};
  }
};

// The definition itself, for all codes of a tile.
struct DoublePass {
  using Word = double;
  using Lane = double;
  using Sums = Doubles;
  static constexpr CodePass kPass = CodePass::doubles;

  static Doubles spread(double word) { return Doubles(word); }
  static Doubles multiply_add(Doubles x, Doubles codes, Doubles sum) { return fma(x, codes, sum); }
  static Doubles finish(Doubles sum, const TileTerms& terms, int first) {
    const Doubles scale = Doubles::load(terms.scales + first), offset = Doubles::load(terms.offsets + first);
    const Doubles score = sum.v * scale.v - offset.v;
    return (score.v <= Doubles(kLargest<double>).v) ? score.v : Doubles(kMinusInfinity<double>).v;
  }
};

#if DVAE_SIMD_AVX512

// Values rounded to integers.
template <int values_per_word>
struct IntegerPass {
  using Word = int32_t;
  using Lane = int32_t;
  using Sums = I32;

  static I32 spread(int32_t word) { return I32(word); }
  static I32 finish(I32 sum, const TileTerms&, int) { return sum; }

  // shift: added to each integer after rounding
  static Packed pack(
      const float* values, int64_t columns, float inverse_scale, int shift, int32_t* words, int64_t step) {
    constexpr int per_vector = F32::lanes / values_per_word;
    F32 square(0.0f), error(0.0f);
    I32 sum(0);
    for (int64_t d = 0; d < columns; d += F32::lanes) {
      const F32 x = F32::load(values + d) * F32(inverse_scale), rounded = round_nearest(x), rest = x - rounded;
      square = fma(x, x, square);
      error = fma(rest, rest, error);
      const I32 integers = to_integers(rounded);
      sum = sum + integers;
      alignas(64) int32_t packed[per_vector];
      store_narrow(integers + I32(shift), packed);
      const int64_t count = std::min<int64_t>((columns - d - 1) / values_per_word + 1, per_vector);
      for (int64_t i = 0; i < count; ++i) words[(d / values_per_word + i) * step] = packed[i];
    }
    return {reduce_add(square), reduce_add(error), reduce_add(sum)};
  }

 private:
  static void store_narrow(I32 integers, int32_t* words) {
    values_per_word == 4 ? store_bytes(integers, words) : store_shorts(integers, words);
  }
};

struct BytePass : IntegerPass<4> {
  static constexpr CodePass kPass = CodePass::bytes;
  // of rows as unsigned and codes as signed bytes
  static I32 multiply_add(I32 x, I32 codes, I32 sum) { return add_byte_products(x, codes, sum); }
};

struct ShortPass : IntegerPass<2> {
  static constexpr CodePass kPass = CodePass::shorts;
  static I32 multiply_add(I32 x, I32 codes, I32 sum) { return add_short_products(x, codes, sum); }
};

#endif
