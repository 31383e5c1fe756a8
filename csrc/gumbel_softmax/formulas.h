// The scalar mathematics of Gumbel-softmax, for host and device. With p = logits + G and top the row's largest p:
//   y = 2^((p - top) * scale) / total,  scale = log2(e) / tau
//   dlogits = y (g - <y, g>) / tau,     dtau = -sum dlogits log y
// Masked entries (-inf) drop out by themselves; NaN, and +inf - +inf, reach the whole row through its total.
#pragma once

#include <cfloat>
#include <limits>

#include "common/numerics.h"

namespace dvae {

// 1/x to about 1 ulp, subnormal x and results included.
DVAE_HD inline float fast_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.f / x;
#endif
}
DVAE_HD inline double fast_reciprocal(double x) { return 1. / x; }

// A product that is never fused into an addition, so that a * b + c * d is the same when its terms change places.
DVAE_HD inline float unfused_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
DVAE_HD inline double unfused_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

template <class T>
constexpr T kLargest = sizeof(T) == 4 ? T(FLT_MAX) : T(DBL_MAX);
template <class T>
constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

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

// The first of the largest values, and whether NaN or +inf was met. Nothing but -inf leaves no index.
template <class T>
struct Best {
  T value = kMinusInfinity<T>;
  uint32_t index = UINT32_MAX;
  uint32_t poisoned = 0;

  // Columns must come in ascending order.
  DVAE_HD void add(T x, uint32_t column) {
    poisoned |= !(x < -kMinusInfinity<T>);
    if (x > value) {
      value = x;
      index = column;
    }
  }

  DVAE_HD void merge(const Best& other) {
    poisoned |= other.poisoned;
    if (other.value > value || (other.value == value && other.index < index)) {
      value = other.value;
      index = other.index;
    }
  }
};

// exp2((x - top) * scale), where a top of -inf (nothing met yet but masked entries) counts as 0.
template <class T>
DVAE_HD inline T exponent(T x, T top, T scale) {
  return (x - (top == kMinusInfinity<T> ? T(0) : top)) * scale;
}

// Online softmax (Milakov, Gimelshein 2018): sum of w and, with a weight, of w * g, w = 2^((x - top) * scale).
template <class T, bool kWeighted>
struct Online {
  T top = kMinusInfinity<T>;
  T total = 0;
  T dot = 0;

  template <int N>
  DVAE_HD void add(const T (&x)[N], const T (&g)[N], T scale) {
    T larger = top;
    for (int i = 0; i < N; ++i) larger = fmax(larger, x[i]);
    const T shrink = fast_exp2(exponent(top, larger, scale));
    T sum = 0, weighted = 0;
    for (int i = 0; i < N; ++i) {
      const T weight = fast_exp2(exponent(x[i], larger, scale));
      sum += weight;
      if (kWeighted) weighted += weight * g[i];
    }
    top = larger;
    total = total * shrink + sum;
    if (kWeighted) dot = dot * shrink + weighted;
  }

  // Commutes exactly, so that all threads of a row end with the same state.
  DVAE_HD void merge(const Online& other, T scale) {
    const T larger = fmax(top, other.top);
    const T mine = fast_exp2(exponent(top, larger, scale)), theirs = fast_exp2(exponent(other.top, larger, scale));
    top = larger;
    total = unfused_product(total, mine) + unfused_product(other.total, theirs);
    if (kWeighted) dot = unfused_product(dot, mine) + unfused_product(other.dot, theirs);
  }

  // 1 / total, and 0 in a row of only -inf.
  DVAE_HD T inverse_total() const { return total == 0 ? T(0) : fast_reciprocal(total); }
};

// <y, g> of a stored sample, over its sum: rounded to half precision it does not sum to one.
template <class T>
struct Mean {
  T dot = 0;
  T total = 0;

  DVAE_HD void add(T y, T g) {
    dot += y * g;
    total += y;
  }
  DVAE_HD void merge(const Mean& other) {
    dot += other.dot;
    total += other.total;
  }
  DVAE_HD T value() const { return total == 0 ? dot : dot * fast_reciprocal(total); }
};

template <class T>
DVAE_HD inline T logit_gradient(T y, T g, T mean, T inverse_tau) {
  return y * (g - mean) * inverse_tau;
}

// An entry's part of dtau, up to the factor -ln 2; log2_y may miss a constant of the row, since dlogits sum to zero.
template <class T>
DVAE_HD inline T tau_gradient_part(T dlogit, T y, T log2_y) {
  return y == 0 ? T(0) : dlogit * log2_y;
}

}  // namespace dvae
