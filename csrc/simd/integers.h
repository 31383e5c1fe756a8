// The lanes that are larger, as bits; the same for doubles and integers.
inline uint32_t lanes_above(F32 a, float below) { return lane_bits(a > F32(below)); }

#if DVAE_SIMD_AVX512

// Sixteen integers of 32 bits.
struct I32 {
  static constexpr int lanes = 16;
  __m512i v;
  I32() = default;
  I32(__m512i x) : v(x) {}
  explicit I32(int32_t x) : v(_mm512_set1_epi32(x)) {}
  static I32 load(const int32_t* p) { return _mm512_loadu_si512(p); }
  void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
};
inline I32 operator+(I32 a, I32 b) { return _mm512_add_epi32(a.v, b.v); }
inline I32 operator-(I32 a, I32 b) { return _mm512_sub_epi32(a.v, b.v); }
inline I32 max(I32 a, I32 b) { return _mm512_max_epi32(a.v, b.v); }
inline int32_t reduce_max(I32 a) { return _mm512_reduce_max_epi32(a.v); }
inline int32_t reduce_add(I32 a) { return _mm512_reduce_add_epi32(a.v); }
inline uint32_t lanes_above(I32 a, int32_t below) { return _mm512_cmpgt_epi32_mask(a.v, _mm512_set1_epi32(below)); }
template <int bits>
I32 shift_left(I32 a) {
  return _mm512_slli_epi32(a.v, bits);
}
// Rounded to nearest even; -infinity becomes the lowest integer.
inline I32 to_integers(F32 x) { return _mm512_cvtps_epi32(x.v); }

// The low bytes, or shorts, of the lanes; aligned.
inline void store_bytes(I32 x, int32_t* p) {
  _mm_store_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
inline void store_shorts(I32 x, int32_t* p) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}

// sum + the dot products of the bytes of a lane, unsigned and signed, or of its signed shorts. Instructions of
// AVX512_VNNI, which the flags of this target leave out, and whose intrinsics GCC 12 spills.
inline I32 add_byte_products(I32 x, I32 y, I32 sum) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(x.v), "v"(y.v));
  return sum;
}
inline I32 add_short_products(I32 x, I32 y, I32 sum) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(x.v), "v"(y.v));
  return sum;
}

#endif
