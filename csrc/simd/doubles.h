// Doubles in the compiler's own vectors, as wide as F32.
struct Doubles {
  typedef double Vector __attribute__((vector_size(4 * F32::lanes)));
  typedef float Narrow __attribute__((vector_size(2 * F32::lanes)));
  static constexpr int lanes = F32::lanes / 2;
  Vector v;
  Doubles() = default;
  Doubles(Vector x) : v(x) {}
  [[gnu::always_inline]] Doubles(double x) : v(x - Vector{}) {}
  static Doubles load(const double* p) {
    Vector x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static Doubles load(const float* p) {
    Narrow x;
    std::memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, Vector);
  }
  void store(double* p) const { std::memcpy(p, &v, sizeof v); }
};
inline Doubles operator+(Doubles a, Doubles b) { return a.v + b.v; }
inline Doubles operator-(Doubles a, Doubles b) { return a.v - b.v; }
inline Doubles fma(Doubles a, Doubles b, Doubles c) { return a.v * b.v + c.v; }
inline Doubles max(Doubles a, Doubles b) { return a.v > b.v ? a.v : b.v; }
inline double reduce_add(Doubles a) {
#if DVAE_SIMD_AVX512
  return _mm512_reduce_add_pd(a.v);
#else
  double sum = 0;
  for (int i = 0; i < Doubles::lanes; ++i) sum += a.v[i];
  return sum;
#endif
}
inline double reduce_max(Doubles a) {
  double most = a.v[0];
  for (int i = 1; i < Doubles::lanes; ++i) most = std::max(most, a.v[i]);
  return most;
}
// The lanes that are larger, as bits.
inline uint32_t lanes_above(Doubles a, double below) {
  uint32_t bits = 0;
  for (int i = 0; i < Doubles::lanes; ++i) bits |= (a.v[i] > below) << i;
  return bits;
}
