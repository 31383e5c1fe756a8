// AVX2 with FMA: eight floats. See baseline.h for what each operation means.

struct U32 {
  __m256i v;
  static U32 load(const uint32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
};

struct Mask {
  __m256 v;
  bool any() const { return _mm256_movemask_ps(v) != 0; }
};
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.v, b.v)}; }

struct F32 {
  using Scalar = float;
  static constexpr int lanes = 8;
  __m256 v;
  F32() = default;
  F32(__m256 x) : v(x) {}
  [[gnu::always_inline]] F32(float x) : v(_mm256_set1_ps(x)) {}

  static F32 load(const float* p) { return _mm256_loadu_ps(p); }
  static F32 load(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static F32 load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void stream(float* p) const { _mm256_stream_ps(p, v); }
  void store(BFloat16* p) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC00000), nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  void store(Half* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

inline F32 operator+(F32 a, F32 b) { return _mm256_add_ps(a.v, b.v); }
inline F32 operator-(F32 a, F32 b) { return _mm256_sub_ps(a.v, b.v); }
inline F32 operator*(F32 a, F32 b) { return _mm256_mul_ps(a.v, b.v); }
inline F32 operator/(F32 a, F32 b) { return _mm256_div_ps(a.v, b.v); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline F32 fma_exact(F32 a, F32 b, F32 c) { return fma(a, b, c); }
inline F32 min(F32 a, F32 b) { return _mm256_min_ps(a.v, b.v); }
inline F32 max(F32 a, F32 b) { return _mm256_max_ps(a.v, b.v); }
inline Mask operator>(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline uint32_t lane_bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.v)); }
inline int first_lane(Mask m) { return __builtin_ctz(lane_bits(m)); }
inline Mask either_nan(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_UNORD_Q)}; }
inline Mask is_nan(F32 a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline F32 select(Mask m, F32 yes, F32 no) { return _mm256_blendv_ps(no.v, yes.v, m.v); }
inline float reduce_max(F32 a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline float reduce_add(F32 a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline F32 reciprocal(F32 x) { return _mm256_div_ps(_mm256_set1_ps(1), x.v); }
inline F32 square_root(F32 x) { return _mm256_sqrt_ps(x.v); }
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void fence_streams() { _mm_sfence(); }

inline F32 round_nearest(F32 x) { return _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32 scale(F32 x, F32 n) {
  const __m256 clamped = _mm256_max_ps(n.v, _mm256_set1_ps(-127));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x.v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline F32 exponent(F32 x) {
  const __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(x.v), 23);
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
}
inline F32 mantissa(F32 x) {
  const __m256 bits = _mm256_and_ps(x.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x007FFFFF)));
  return _mm256_or_ps(bits, _mm256_set1_ps(1));
}
inline F32 to_float(U32 x) {  // unsigned, rounded once
  const __m256 top = _mm256_cvtepi32_ps(_mm256_srli_epi32(x.v, 16));
  const __m256 bottom = _mm256_cvtepi32_ps(_mm256_and_si256(x.v, _mm256_set1_epi32(0xFFFF)));
  return _mm256_fmadd_ps(top, _mm256_set1_ps(65536), bottom);
}
inline F32 bit_pattern(F32 x) { return _mm256_cvtepi32_ps(_mm256_castps_si256(x.v)); }
inline U32 complement(U32 x) { return {_mm256_xor_si256(x.v, _mm256_set1_epi32(-1))}; }

struct W64 {
  static constexpr int lanes = 4;
  __m256i v;
  static W64 set(uint32_t x) { return {_mm256_set1_epi64x(x)}; }
  static W64 counters(uint32_t first) {
    return {_mm256_add_epi64(_mm256_setr_epi64x(0, 2, 1, 3), _mm256_set1_epi64x(first))};
  }
  static constexpr int per_vector = 2;
  static W64 rows(uint32_t first, int part) {
    return {_mm256_add_epi64(_mm256_setr_epi64x(0, 2, 4, 6), _mm256_set1_epi64x(first + part))};
  }
};
inline void store_rows(const W64 (&w)[W64::per_vector], uint32_t* p) {
  const __m256i odd = _mm256_slli_epi64(w[1].v, 32);
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm256_blend_epi32(w[0].v, odd, 0xAA));
}
inline W64 multiply(W64 a, W64 b) { return {_mm256_mul_epu32(a.v, b.v)}; }
inline W64 high(W64 a) { return {_mm256_srli_epi64(a.v, 32)}; }
inline W64 xor2(W64 a, W64 b) { return {_mm256_xor_si256(a.v, b.v)}; }
inline W64 xor3(W64 a, W64 b, W64 c) { return xor2(xor2(a, b), c); }
inline W64 low_xor_then_high(W64 product, W64 a, W64 b) {
  const __m256i swapped = _mm256_shuffle_epi32(product.v, 0xB1);
  return {_mm256_blend_epi32(swapped, xor3({swapped}, a, b).v, 0x55)};
}
inline void store_words(W64 w01, W64 w23, uint32_t* p) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm256_unpacklo_epi64(w01.v, w23.v));
  _mm256_store_si256(reinterpret_cast<__m256i*>(p) + 1, _mm256_unpackhi_epi64(w01.v, w23.v));
}
