// The terms of the categorical divergence.

#ifndef DVAE_TARGET  // for an editor
#include "categorical_kl/arguments.h"
#include "simd/editor.h"
#endif

// x in the first `count` lanes, 0 in the others.
template <class F>
F in_lanes(F x, AllLanes<F>) {
  return x;
}
template <class F>
F in_lanes(F x, int count) {
  typename F::Scalar lanes[F::lanes];
  x.store(lanes);
  return load_lanes<F>(lanes, count);
}

// m phi(t), phi(t) = e^t t - e^t + 1 and pi = m e^t: near 0 by the series of phi, which loses no digits there.
template <class F>
F divergence_term(F t, F pi, F m) {
  using Scalar = typename F::Scalar;
  constexpr Scalar near = sizeof(Scalar) == 4 ? 0x1p-2 : 0x1p-6;
  t = select(pi == F(0), F(Scalar(-1e30)), t);  // where pi is 0, all that is left is m
  const F square = t * t;
  F series = fma(F(Scalar(1.0 / 840)), t, F(Scalar(1.0 / 144)));
  series = fma(series, t, F(Scalar(1.0 / 30)));
  series = fma(series, t, F(Scalar(1.0 / 8)));
  series = fma(series, t, F(Scalar(1.0 / 3)));
  series = fma(series, t, F(Scalar(0.5)));
  return select(F(near * near) > square, m * square * series, fma(pi, t, m - pi));
}
