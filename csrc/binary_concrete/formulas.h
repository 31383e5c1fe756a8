// The scalar mathematics of the binary concrete distribution, for host and device. With p = l + L:
//   zeta = 1 / (1 + e) or e / (1 + e),  e = 2^(-|p| scale),  scale = log2(e) / tau
//   dlogit = g e / (1 + e)^2 / tau,     dtau = -sum dlogit p / tau
// NaN passes through e; p = -inf and +inf make e zero.
#pragma once

#include "common/numerics.h"

namespace dvae {

template <class T>
DVAE_HD inline T hard_bit(T p) {
  return p > 0 ? T(1) : p <= 0 ? T(0) : p;
}

template <class T>
DVAE_HD inline T relaxed_bit(T p, T scale) {
  const T e = fast_exp2(-fabs(p) * scale);
  return (p > 0 ? T(1) : e) * normal_reciprocal(1 + e);
}

// Returns dlogit, and adds dlogit p log2(e) / tau to *dtau_partial: dtau up to the factor -ln 2.
template <class T>
DVAE_HD inline T bit_gradient(T p, T g, T scale, T inverse_tau, T* dtau_partial) {
  const T t = p * scale, e = fast_exp2(-fabs(t)), r = normal_reciprocal(1 + e);
  const T dlogit = g * (e * r * r) * inverse_tau;
  *dtau_partial += e == 0 ? T(0) : dlogit * t;  // infinite logits have no gradient
  return dlogit;
}

// log tau, also of a subnormal tau; NaN unless tau is a finite number > 0.
template <class T>
DVAE_HD inline T log_of_tau(T tau) {
  if (!(tau > 0 && tau <= kLargest<T>)) return kNaN<T>;
  return kLn2<T> * (tau < kLeastNormal<T> ? fast_log2(tau * T(0x1p60)) - 60 : fast_log2(tau));
}

// The log density and its gradients share y inside (0, 1), its logarithms, t = tau logit(y) - l and e = e^-|t|.
template <class T>
struct BinaryConcretePoint {
  T y, one_minus_y, log_y, log_1y, t, e;

  DVAE_HD BinaryConcretePoint(T given, T logit, T tau) {
    y = fmin(fmax(given, kLeastNormal<T>), 1 - kEpsilon<T> / 2);
    one_minus_y = 1 - y;
    log_y = kLn2<T> * fast_log2(y);
    log_1y = kLn2<T> * fast_log2(one_minus_y);
    t = tau * (log_y - log_1y) - logit;
    e = fast_exp2(-kLog2e<T> * fabs(t));
  }
};

template <class T>
DVAE_HD inline T binary_log_density(T given, T logit, T tau, T log_tau) {
  const BinaryConcretePoint<T> at(given, logit, tau);
  const T result = log_tau - fabs(at.t) - (2 * kLn2<T> * fast_log2(1 + at.e) + at.log_y + at.log_1y);
  return given == given ? result : given;
}

template <class T>
struct BinaryLogDensityGradient {
  T dy, dlogit, dtau;

  DVAE_HD BinaryLogDensityGradient(T g, T given, T logit, T tau, T inverse_tau) {
    const BinaryConcretePoint<T> at(given, logit, tau);
    T tanh = (1 - at.e) * normal_reciprocal(1 + at.e);  // of t / 2
    tanh = given == given ? (at.t < 0 ? -tanh : tanh) : given;
    const T slope = (at.y - at.one_minus_y - tau * tanh) * normal_reciprocal(at.y * at.one_minus_y);
    dy = at.y == given ? g * slope : given == given ? 0 * tau : given;  // an invalid tau is NaN here
    dlogit = g * tanh;
    dtau = g * (inverse_tau - tanh * (at.log_y - at.log_1y));
  }
};

}  // namespace dvae
