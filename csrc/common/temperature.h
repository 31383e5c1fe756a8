// The temperature as kernels use it, for host and device.
#pragma once

#include "common/numerics.h"

namespace dvae {

// What the kernels need of tau. Zero gives the one-hot sample and no gradient; what is not a finite number >= 0 gives
// NaN everywhere. 1/tau is kept finite, since it multiplies differences that are exactly zero at the top.
template <class T>
struct Temperature {
  T scale;    // log2(e) / tau
  T inverse;  // 1 / tau, and 0 for tau = 0
  bool zero;

  DVAE_HD explicit Temperature(T tau) : zero(tau == 0) {
    if (zero) {
      scale = kLog2e<T>;
      inverse = 0;
    } else if (tau > 0 && tau <= kLargest<T>) {
      const T reciprocal = fast_reciprocal(tau);
      scale = fmin(kLog2e<T> * reciprocal, kLargest<T>);
      inverse = fmin(reciprocal, kLargest<T>);
    } else {
      scale = inverse = kNaN<T>;
    }
  }

  DVAE_HD bool invalid() const { return scale != scale; }
};

// 1 / tau, finite in the compute type: times an exponent of zero it must stay zero.
template <class Scalar>
double finite_inverse(double tau) {
  const double inverse = 1 / tau, largest = kLargest<Scalar>;
  return inverse < largest ? inverse : largest;
}

}  // namespace dvae
