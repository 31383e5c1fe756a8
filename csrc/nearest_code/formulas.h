// The scores that decide between codes, and how far a low-precision pass can be from them, for host and device.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/numerics.h"

namespace dvae {

// sum of x_d c_d over d = 0..columns-1, in order, in float64: with float32 inputs the products are exact.
template <class X, class C>
DVAE_HD double ordered_dot(const X* x, int64_t x_stride, const C* c, int64_t c_stride, int64_t columns) {
  double sum = 0;
  for (int64_t d = 0; d < columns; ++d) {
    const double factor = load_as_compute(x[d * x_stride]);
    sum += factor * static_cast<double>(load_as_compute(c[d * c_stride]));
  }
  return sum;
}

// A metric scores a row x and a code c as scale (x . c) - offset. No metric is both of these:
struct Metric {
  bool normalised;  // scale = 1 / |c|, 0 for a code of zeros; else 1
  bool distance;    // offset = |c|^2 / 2, so that x and c can be centred alike; else 0
};

struct NamedMetric {
  const char* name;
  Metric metric;
};
inline constexpr NamedMetric kMetrics[] = {{"l2", {false, true}}, {"cosine", {true, false}}, {"dot", {false, false}}};

// Null for a name that no metric has.
inline const Metric* find_metric(std::string_view name) {
  for (const NamedMetric& entry : kMetrics) {
    if (name == entry.name) return &entry.metric;
  }
  return nullptr;
}

// The scale is NaN where the code cannot be chosen: where it or its square is not finite.
struct CodeTerms {
  double scale, offset;
};

DVAE_HD inline CodeTerms code_terms(const Metric& metric, double square, bool finite) {
  if (!finite || !(square <= kLargest<double>)) return {kNaN<double>, 0};
  const double scale = !metric.normalised ? 1 : square > 0 ? 1 / sqrt(square) : 0;
  return {scale, metric.distance ? square / 2 : 0};
}

DVAE_HD inline double code_score(double dot, const CodeTerms& terms) { return dot * terms.scale - terms.offset; }

// Whether a finite score is better than the best one so far, which is NaN before the first; the lowest index wins.
DVAE_HD inline bool is_better(double score, int64_t code, double best, int64_t best_code) {
  if (!(score - score == 0)) return false;
  return !(score <= best) || (score == best && code < best_code);
}

// The first pass scores rows and codes that are centred, scaled by a power of two and rounded, a^ and b^ for a and b:
// t(k) = a^.b^_k - h^_k, where
//   a distance:    a = x - m, b = c - m, h = |b|^2 / 2; x.c - |c|^2 / 2 is a.b - h and a constant of the row, any m;
//   other metrics: a = x, b = scale c - m, h = 0; scale (x.c) is a.b and a constant of the row.
// Upper bounds for the codes of a head: the largest |b^|, |b - b^|, |h^| and |h - h^|; |m|, and the part of it that is
// taken off x. The last and half are 0 unless the metric is a distance; then half is positive.
template <class Real>
struct CodeBounds {
  Real norm, error, half, half_error, centre, row_centre;
};

// The arithmetic of a first pass: the sum of n products and h^ is off by at most unit (n + 1) times the sum of their
// absolute values, and by least (n + 1) where results underflow.
struct PassArithmetic {
  float unit, least;
};
constexpr PassArithmetic kFloatPass{0x1.01p-24f, 0x1p-149f};  // fused or not, with gradual underflow

// Bounds |t(k) - s(k) - constant of the row| for all codes of a head; s is the float64 definition at the scale of the
// first pass. a.b - a^.b^ = (a - a^).b + a^.(b - b^); then the rounding of h, of the sum, and of s itself, whose terms
// are not centred. The winner's t(k) is at least the largest one - 2 of these. Infinite or NaN without a bound.
template <class Real>
struct ScoreError {
  Real constant, of_norm, of_error;

  DVAE_HD ScoreError(const CodeBounds<Real>& codes, const PassArithmetic& pass, int64_t columns) {
    const auto terms = static_cast<Real>(columns);
    const Real sum = pass.unit * (terms + 4), definition = Real(0x1p-53) * (terms + 8);  // of sizes; 4: and 2 B
    const Real norm = codes.norm + codes.error;  // of b
    const Real c = norm + codes.centre, square = codes.half > 0 ? c * c : 0;
    constexpr Real slack = 1.001;  // the rounding of this bound itself
    constant = slack * (codes.half_error + sum * codes.half + pass.least * (terms + 4) +
                        definition * (codes.row_centre * c + square));
    of_norm = slack * (codes.error + sum * codes.norm + definition * c);
    of_error = slack * (norm + definition * c);
  }
  // for a row whose |a^| and |a - a^| are at most these
  DVAE_HD Real of(Real row_norm, Real row_error) const { return constant + of_norm * row_norm + of_error * row_error; }
};

}  // namespace dvae
