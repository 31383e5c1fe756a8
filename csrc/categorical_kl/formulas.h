// The scalar mathematics of the categorical divergence and the concrete density, for host and device, and what a pass over
// a row reduces it to. Weights are relative to the largest value met so far; states of -inf alone weigh nothing.
#pragma once

#include "common/numerics.h"

namespace dvae {

template <class T>
DVAE_HD inline T or_zero(T top) {
  return top == kMinusInfinity<T> ? T(0) : top;
}
template <class T>
DVAE_HD inline T natural_exp(T x) {
  return fast_exp2(x * kLog2e<T>);
}
template <class T>
DVAE_HD inline T natural_log(T x) {
  return fast_log2(x) * kLn2<T>;
}
template <class T>
DVAE_HD inline T inverse_or_zero(T total) {
  return total == 0 ? T(0) : fast_reciprocal(total);
}

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

template <class T>
DVAE_HD inline T positive_or_nan(T tau) {
  return tau > 0 && tau <= kLargest<T> ? tau : kNaN<T>;
}

template <class T>
constexpr T kSmallest = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);

template <class T>
DVAE_HD inline T clamped_sample(T y) {
  return y < kSmallest<T> ? kSmallest<T> : y;
}
// -inf for excluded columns
template <class T>
DVAE_HD inline T sample_energy(T y, T logit, T tau) {
  return logit == kMinusInfinity<T> ? logit : logit - tau * natural_log(clamped_sample(y));
}

// Over the columns that are not excluded: how many, sum log y, its mean under the softmax of the energies (times
// total), and the sum of the energies relative to the top.
template <class T, bool kBackward>
struct Density {
  T top = kMinusInfinity<T>, total = 0;
  T count = 0, log_y = 0;
  T last = 0;  // forward: the sum of the energies; backward: the mean of log y

  template <int N>
  DVAE_HD void add(const T (&y)[N], const T (&energy)[N]) {
    T larger = top;
    for (int i = 0; i < N; ++i) larger = fmax(larger, energy[i]);
    rescale(larger);
    for (int i = 0; i < N; ++i) {
      if (energy[i] == kMinusInfinity<T>) continue;
      const T relative = energy[i] - or_zero(top), weight = natural_exp(relative), log = natural_log(clamped_sample(y[i]));
      total += weight;
      count += 1;
      log_y += log;
      last += kBackward ? weight * log : relative;
    }
  }

  // Commutes exactly.
  DVAE_HD void merge(Density other) {
    const T larger = fmax(top, other.top);
    rescale(larger);
    other.rescale(larger);
    total += other.total;
    count += other.count;
    log_y += other.log_y;
    last += other.last;
  }

  // less lgamma(count)
  DVAE_HD T density(T tau) const {
    if (count == 0) return kNaN<T>;
    return (count - 1) * natural_log(tau) + (last - log_y) - count * natural_log(total);
  }
  DVAE_HD T tau_gradient(T tau) const {
    return count == 0 ? T(0) : (count - 1) * fast_reciprocal(tau) + (count * last * inverse_or_zero(total) - log_y);
  }

 private:
  DVAE_HD void rescale(T larger) {
    const T shrink = natural_exp(top - or_zero(larger));
    last = kBackward ? unfused_product(last, shrink) : last + unfused_product(count, or_zero(top) - or_zero(larger));
    total = unfused_product(total, shrink);
    top = larger;
  }
};

// Gradients of the density; an excluded column's share is 0, or NaN in a row with NaN.
template <class T>
DVAE_HD inline T density_logit_gradient(T grad, T energy, T share, T count) {
  return energy == kMinusInfinity<T> ? share : grad * (1 - count * share);
}
template <class T>
DVAE_HD inline T density_sample_gradient(T grad, T y, T energy, T share, T count, T tau) {
  if (y < kSmallest<T>) return 0;
  if (energy == kMinusInfinity<T>) return share;
  return grad * (count * tau * share - (tau + 1)) * fast_reciprocal(y);
}

}  // namespace dvae
