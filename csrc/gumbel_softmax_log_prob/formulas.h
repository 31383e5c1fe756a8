// The scalar mathematics of the concrete density, for host and device, and what a pass over a row reduces it to. Weights are
// relative to the largest value met so far; states of -inf alone weigh nothing.
#pragma once

#include "common/online.h"

namespace dvae {

// A temperature, or NaN where it is none.
template <class T>
DVAE_HD inline T positive_or_nan(T tau) {
  return tau > 0 && tau <= kLargest<T> ? tau : kNaN<T>;
}

template <class T>
DVAE_HD inline T clamped_sample(T y) {
  return y < kLeastNormal<T> ? kLeastNormal<T> : y;
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
  if (y < kLeastNormal<T>) return 0;
  if (energy == kMinusInfinity<T>) return share;
  return grad * (count * tau * share - (tau + 1)) * fast_reciprocal(y);
}

}  // namespace dvae
