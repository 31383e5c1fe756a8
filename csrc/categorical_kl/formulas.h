// The scalar mathematics of the categorical divergence, for host and device, and what a pass over a row reduces it to. Weights are
// relative to the largest value met so far; states of -inf alone weigh nothing.
#pragma once

#include "common/online.h"

namespace dvae {

// m phi(t), phi(t) = e^t t - e^t + 1 and pi = m e^t: near 0 by the series of phi, which loses no digits there.
template <class T>
DVAE_HD inline T divergence_term(T t, T pi, T m) {
  constexpr T near = sizeof(T) == 4 ? T(0x1p-2) : T(0x1p-6);
  if (pi == 0) return m;
  const T square = t * t;
  T series = T(1.0 / 840) * t + T(1.0 / 144);
  series = series * t + T(1.0 / 30);
  series = series * t + T(1.0 / 8);
  series = series * t + T(1.0 / 3);
  series = series * t + T(0.5);
  return square < near * near ? m * square * series : pi * t + (m - pi);
}

// Of softmax(x), of softmax(u), and sum w delta with delta = log of their ratio, relative to both tops.
template <class T, bool kPrior, bool kDelta>
struct Divergence {
  T top = kMinusInfinity<T>, total = 0;
  T prior_top = kPrior ? kMinusInfinity<T> : T(0), prior_total = 0;
  T dot = 0;

  template <int N>
  DVAE_HD void add(const T (&x)[N], const T (&u)[N]) {
    T larger = top, prior_larger = prior_top;
    for (int i = 0; i < N; ++i) {
      larger = fmax(larger, x[i]);
      if (kPrior) prior_larger = fmax(prior_larger, u[i]);
    }
    rescale(larger, prior_larger);
    for (int i = 0; i < N; ++i) {
      const T weight = natural_exp(x[i] - or_zero(top));
      total += weight;
      if (kPrior) prior_total += natural_exp(u[i] - or_zero(prior_top));
      if (kDelta) dot += weight == 0 ? T(0) : weight * delta(x[i], u[i]);
    }
  }

  // Commutes exactly, so that all threads of a row end with the same state.
  DVAE_HD void merge(Divergence other) {
    const T larger = fmax(top, other.top), prior_larger = fmax(prior_top, other.prior_top);
    rescale(larger, prior_larger);
    other.rescale(larger, prior_larger);
    total += other.total;
    prior_total += other.prior_total;
    dot += other.dot;
  }

  DVAE_HD T delta(T x, T u) const {
    const T log_weight = x - or_zero(top);
    return kPrior ? log_weight - (u - or_zero(prior_top)) : log_weight;
  }

 private:
  DVAE_HD void rescale(T larger, T prior_larger) {
    const T shrink = natural_exp(top - or_zero(larger));
    if (kDelta) {
      T lag = or_zero(top) - or_zero(larger);
      if (kPrior) lag -= or_zero(prior_top) - or_zero(prior_larger);
      dot = unfused_product(shrink, total == 0 ? T(0) : dot + lag * total);
    }
    total = unfused_product(total, shrink);
    top = larger;
    if (kPrior) {
      prior_total = unfused_product(prior_total, natural_exp(prior_top - or_zero(prior_larger)));
      prior_top = prior_larger;
    }
  }
};

}  // namespace dvae
