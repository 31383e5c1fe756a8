// AVX-512: sixteen floats. See baseline.h for what each operation means.

struct U32 {
  __m512i v;
  static U32 load(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
};

struct Mask {
  __mmask16 v;
  bool any() const { return v != 0; }
};
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.v | b.v)}; }

struct F32 {
  using Scalar = float;
  static constexpr int lanes = 16;
  __m512 v;
  F32() = default;
  F32(__m512 x) : v(x) {}
  [[gnu::always_inline]] F32(float x) : v(_mm512_set1_ps(x)) {}

  static F32 load(const float* p) { return _mm512_loadu_ps(p); }
  static F32 load(const BFloat16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static F32 load(const Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void stream(float* p) const { _mm512_stream_ps(p, v); }
  void store(BFloat16* p) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7FC00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  void store(Half* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

inline F32 operator+(F32 a, F32 b) { return _mm512_add_ps(a.v, b.v); }
inline F32 operator-(F32 a, F32 b) { return _mm512_sub_ps(a.v, b.v); }
inline F32 operator*(F32 a, F32 b) { return _mm512_mul_ps(a.v, b.v); }
inline F32 operator/(F32 a, F32 b) { return _mm512_div_ps(a.v, b.v); }
inline F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline F32 fma_exact(F32 a, F32 b, F32 c) { return fma(a, b, c); }
inline F32 min(F32 a, F32 b) { return _mm512_min_ps(a.v, b.v); }
inline F32 max(F32 a, F32 b) { return _mm512_max_ps(a.v, b.v); }
inline Mask operator>(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline uint32_t lane_bits(Mask m) { return m.v; }
inline int first_lane(Mask m) { return __builtin_ctz(m.v); }
inline Mask either_nan(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q)}; }
inline Mask is_nan(F32 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline F32 select(Mask m, F32 yes, F32 no) { return _mm512_mask_mov_ps(no.v, m.v, yes.v); }
inline float reduce_max(F32 a) { return _mm512_reduce_max_ps(a.v); }
inline float reduce_add(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline F32 square_root(F32 x) { return _mm512_sqrt_ps(x.v); }
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void fence_streams() { _mm_sfence(); }

inline F32 reciprocal(F32 x) {
  const __m512 y = _mm512_rcp14_ps(x.v);
  return _mm512_fmadd_ps(y, _mm512_fnmadd_ps(y, x.v, _mm512_set1_ps(1)), y);
}

inline F32 round_nearest(F32 x) {
  return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F32 to_float(U32 x) { return _mm512_cvtepu32_ps(x.v); }
inline F32 bit_pattern(F32 x) { return _mm512_cvtepi32_ps(_mm512_castps_si512(x.v)); }
inline F32 scale(F32 x, F32 n) { return _mm512_scalef_ps(x.v, n.v); }

// Logarithms by a table of 32 reciprocals and their logarithms, held in four registers, and a cubic: no gather, no
// division. log2(m) = log2(1 + r) - log2(c) with c about 1/m from the table and r = m * c - 1, |r| <= 1/64.
struct Logarithm {
  __m512 reciprocal_low, reciprocal_high, log_low, log_high;

  Logarithm()
      : reciprocal_low(_mm512_load_ps(kLogTable.reciprocal)),
        reciprocal_high(_mm512_load_ps(kLogTable.reciprocal + 16)),
        log_low(_mm512_load_ps(kLogTable.log2)),
        log_high(_mm512_load_ps(kLogTable.log2 + 16)) {}

  // log2(x) of positive normal x, absolute error about 1e-7
  F32 log2(F32 x) const {
    const Entry entry = lookup(x.v);
    const __m512 m = _mm512_getmant_ps(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
    const __m512 r = _mm512_fmsub_ps(m, entry.reciprocal, _mm512_set1_ps(1));
    return _mm512_fmadd_ps(log1p_over(r), r, _mm512_add_ps(_mm512_getexp_ps(x.v), entry.log2));
  }

  // Exponential noise over ln 2: -log2(1 - u), u = (bits + 1/2) / 2^32, with full relative accuracy at both ends.
  F32 exponential(U32 bits) const {
    // v = 1 - u from the complement, rounded towards zero so that it stays below 1 and in its table slot
    constexpr int truncate = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    const __m512i complement = _mm512_ternarylogic_epi32(bits.v, bits.v, bits.v, 0x55);
    const __m512 v = _mm512_fmadd_round_ps(
        _mm512_cvt_roundepu32_ps(complement, truncate), _mm512_set1_ps(0x1p-32f), _mm512_set1_ps(0x1p-33f), truncate);
    const Entry entry = lookup(v);
    // For u < 1/2, where v in [1/2, 1) has lost u's low bits: r = 2vc - 1 = (-2u)c + (2c - 1), exact in u.
    const __mmask16 upper = _mm512_movepi32_mask(bits.v);
    const __m512 minus_2u = _mm512_fnmsub_ps(
        _mm512_cvtepu32_ps(bits.v), _mm512_set1_ps(0x1p-31f), _mm512_set1_ps(0x1p-32f));
    const __m512 m = _mm512_mask_getmant_ps(minus_2u, upper, v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
    const __m512 shift = _mm512_mask3_fmadd_ps(
        entry.reciprocal, _mm512_set1_ps(2), _mm512_set1_ps(-1), static_cast<__mmask16>(~upper));
    const __m512 r = _mm512_fmadd_ps(m, entry.reciprocal, shift);
    return _mm512_fnmsub_ps(log1p_over(r), r, _mm512_add_ps(_mm512_getexp_ps(v), entry.log2));
  }

 private:
  struct Entry {
    __m512 reciprocal, log2;
  };
  Entry lookup(__m512 x) const {
    const __m512i slot = _mm512_srli_epi32(_mm512_castps_si512(x), 18);  // the top five bits of the mantissa
    return {_mm512_permutex2var_ps(reciprocal_low, slot, reciprocal_high),
            _mm512_permutex2var_ps(log_low, slot, log_high)};
  }
  static __m512 log1p_over(__m512 r) {  // log2(1 + r) / r
    const __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.48089835f), r, _mm512_set1_ps(-0.72141355f));
    return _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.44269504f));
  }
};

// 32-bit words in 64-bit lanes, as Philox multiplies them.
struct W64 {
  static constexpr int lanes = 8;
  __m512i v;
  static W64 set(uint32_t x) { return {_mm512_set1_epi64(x)}; }
  // Counters from `first` in the lane order that store_words undoes.
  static W64 counters(uint32_t first) {
    return {_mm512_add_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_set1_epi64(first))};
  }
  // Rows from `first`, every second one; store_rows puts the even and the odd ones together.
  static constexpr int per_vector = 2;
  static W64 rows(uint32_t first, int part) {
    return {_mm512_add_epi64(_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), _mm512_set1_epi64(first + part))};
  }
};
inline void store_rows(const W64 (&w)[W64::per_vector], uint32_t* p) {
  _mm512_store_si512(p, _mm512_mask_mov_epi32(w[0].v, 0xAAAA, _mm512_slli_epi64(w[1].v, 32)));
}
inline W64 multiply(W64 a, W64 b) { return {_mm512_mul_epu32(a.v, b.v)}; }
inline W64 high(W64 a) { return {_mm512_srli_epi64(a.v, 32)}; }
inline W64 xor2(W64 a, W64 b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline W64 xor3(W64 a, W64 b, W64 c) { return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)}; }
inline W64 low_xor_then_high(W64 product, W64 a, W64 b) {
  const __m512i swapped = _mm512_rol_epi64(product.v, 32);
  return {_mm512_mask_ternarylogic_epi32(swapped, 0x5555, a.v, b.v, 0x96)};
}
inline void store_words(W64 w01, W64 w23, uint32_t* p) {
  _mm512_store_si512(p, _mm512_unpacklo_epi64(w01.v, w23.v));
  _mm512_store_si512(p + 16, _mm512_unpackhi_epi64(w01.v, w23.v));
}
inline U32 complement(U32 x) { return {_mm512_ternarylogic_epi32(x.v, x.v, x.v, 0x55)}; }
