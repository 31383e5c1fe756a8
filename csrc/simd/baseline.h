// Any CPU: four floats in the compiler's own vectors (SSE2, NEON). This is the layer's definition; the AVX headers
// give the same operations in intrinsics.

struct U32 {
  typedef uint32_t Vector __attribute__((vector_size(16)));
  Vector v;
  static U32 load(const uint32_t* p) {
    U32 x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
  }
};

struct Mask {
  typedef int32_t Vector __attribute__((vector_size(16)));
  Vector v;
  bool any() const { return (v[0] | v[1] | v[2] | v[3]) != 0; }
};
inline Mask operator|(Mask a, Mask b) { return {a.v | b.v}; }

struct F32 {
  typedef float Vector __attribute__((vector_size(16)));
  using Scalar = float;
  static constexpr int lanes = 4;
  Vector v;
  F32() = default;
  F32(Vector x) : v(x) {}
  [[gnu::always_inline]] F32(float x) : v{x, x, x, x} {}

  template <class T>
  static F32 load(const T* p) {  // unaligned, converted to float
    return Vector{load_as_compute(p[0]), load_as_compute(p[1]), load_as_compute(p[2]), load_as_compute(p[3])};
  }

  template <class T>
  void store(T* p) const {  // unaligned, rounded to nearest even
    for (int i = 0; i < lanes; ++i) p[i] = store_from_compute<T>(v[i]);
  }
  void stream(float* p) const { store(p); }  // past the caches; aligned to the vector
};

inline F32 operator+(F32 a, F32 b) { return a.v + b.v; }
inline F32 operator-(F32 a, F32 b) { return a.v - b.v; }
inline F32 operator*(F32 a, F32 b) { return a.v * b.v; }
inline F32 operator/(F32 a, F32 b) { return a.v / b.v; }
inline F32 fma(F32 a, F32 b, F32 c) { return a.v * b.v + c.v; }
inline F32 fma_exact(F32 a, F32 b, F32 c) {  // rounded once, where a second rounding would show
  typedef double Wide __attribute__((vector_size(32)));
  const Wide product = __builtin_convertvector(a.v, Wide) * __builtin_convertvector(b.v, Wide);
  return F32(__builtin_convertvector(product + __builtin_convertvector(c.v, Wide), F32::Vector));
}
inline Mask operator>(F32 a, F32 b) { return {a.v > b.v}; }
inline Mask operator==(F32 a, F32 b) { return {a.v == b.v}; }
inline uint32_t lane_bits(Mask m) { return (m.v[0] & 1) | (m.v[1] & 2) | (m.v[2] & 4) | (m.v[3] & 8); }
// The lowest lane that is set; there is one.
inline int first_lane(Mask m) { return __builtin_ctz(lane_bits(m)); }
inline Mask either_nan(F32 a, F32 b) { return {(a.v != a.v) | (b.v != b.v)}; }
inline Mask is_nan(F32 a) { return {a.v != a.v}; }
inline F32 select(Mask m, F32 yes, F32 no) { return m.v ? yes.v : no.v; }
inline F32 min(F32 a, F32 b) { return a.v < b.v ? a.v : b.v; }  // b where either is NaN
inline F32 max(F32 a, F32 b) { return a.v > b.v ? a.v : b.v; }  // b where either is NaN
inline float reduce_max(F32 a) { return std::max(std::max(a.v[0], a.v[1]), std::max(a.v[2], a.v[3])); }
inline float reduce_add(F32 a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
inline F32 reciprocal(F32 x) { return 1.0f / x.v; }
inline F32 square_root(F32 x) {
  return F32::Vector{std::sqrt(x.v[0]), std::sqrt(x.v[1]), std::sqrt(x.v[2]), std::sqrt(x.v[3])};
}
inline void prefetch(const void*) {}
inline void fence_streams() {}  // orders stream() before what follows

inline F32 round_nearest(F32 x) {  // |x| < 2^22
  const F32::Vector magic = F32(12582912.0f).v;
  F32::Vector shifted = x.v + magic;
  __asm__("" : "+m"(shifted));  // or the compiler may see x + c - c as x under contraction
  return shifted - magic;
}
inline F32 scale(F32 x, F32 n) {  // x * 2^n for integral n <= 127; zero instead of subnormal
  const Mask::Vector exponent = __builtin_convertvector(max(n, F32(-127)).v, Mask::Vector) + 127;
  return F32(x.v * reinterpret_cast<F32::Vector>(exponent << 23));
}
inline F32 exponent(F32 x) {  // floor(log2(x)) of positive normal x
  const Mask::Vector biased = reinterpret_cast<Mask::Vector>(x.v) >> 23;
  return F32(__builtin_convertvector(biased - 127, F32::Vector));
}
inline F32 mantissa(F32 x) {  // x / 2^exponent(x), in [1, 2)
  const Mask::Vector bits = (reinterpret_cast<Mask::Vector>(x.v) & 0x007FFFFF) | 0x3F800000;
  return F32(reinterpret_cast<F32::Vector>(bits));
}
inline F32 to_float(U32 x) {  // rounded once
  return F32(__builtin_convertvector(x.v, F32::Vector));
}
inline F32 bit_pattern(F32 x) {  // its integer, as a float: 2^23 (log2(x) + 127) for x a power of two, else less
  return F32(__builtin_convertvector(reinterpret_cast<Mask::Vector>(x.v), F32::Vector));
}
inline U32 complement(U32 x) { return {~x.v}; }

// 32-bit words in 64-bit lanes, as Philox multiplies them: only the low half of a factor counts, and what else stands
// in the high half of a lane is ignored until the last round.
struct W64 {
  static constexpr int lanes = 1;
  uint64_t v;
  static W64 set(uint32_t x) { return {x}; }
  static W64 counters(uint32_t first) { return {first}; }  // consecutive, in the lane order that store_words undoes
  // F32::lanes consecutive rows from `first` take per_vector of these; store_rows stores their low words in row order.
  static constexpr int per_vector = 4;
  static W64 rows(uint32_t first, int part) { return {first + part}; }
};
inline void store_rows(const W64 (&w)[W64::per_vector], uint32_t* p) {
  for (int i = 0; i < W64::per_vector; ++i) p[i] = static_cast<uint32_t>(w[i].v);
}
inline W64 multiply(W64 a, W64 b) { return {(a.v & 0xFFFFFFFF) * (b.v & 0xFFFFFFFF)}; }
inline W64 high(W64 a) { return {a.v >> 32}; }
inline W64 xor2(W64 a, W64 b) { return {a.v ^ b.v}; }
inline W64 xor3(W64 a, W64 b, W64 c) { return {a.v ^ b.v ^ c.v}; }
// (high half of the product ^ a ^ b) below, the low half of the product above: two output words in a lane
inline W64 low_xor_then_high(W64 product, W64 a, W64 b) {
  return {((product.v >> 32) ^ ((a.v ^ b.v) & 0xFFFFFFFF)) | product.v << 32};
}
inline void store_words(W64 w01, W64 w23, uint32_t* p) {  // aligned; words in the order of counters
  p[0] = static_cast<uint32_t>(w01.v);
  p[1] = static_cast<uint32_t>(w01.v >> 32);
  p[2] = static_cast<uint32_t>(w23.v);
  p[3] = static_cast<uint32_t>(w23.v >> 32);
}
