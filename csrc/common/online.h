// What a pass over a row reduces it to, for host and device.
#pragma once

#include "common/indices.h"
#include "common/numerics.h"

namespace dvae {

// The first of the largest values, and whether NaN or +inf was met. Nothing but -inf leaves no index.
template <class T>
struct Best {
  T value = kMinusInfinity<T>;
  uint32_t index = kNoColumn;
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

// A row's largest value, which counts as 0 in a row of only -inf.
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
// 1 / total, and 0 in a row of only -inf.
template <class T>
DVAE_HD inline T inverse_or_zero(T total) {
  return total == 0 ? T(0) : fast_reciprocal(total);
}

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

  DVAE_HD T inverse_total() const { return inverse_or_zero(total); }
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

}  // namespace dvae
