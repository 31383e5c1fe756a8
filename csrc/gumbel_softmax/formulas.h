// The scalar mathematics of Gumbel-softmax, for host and device. With p = logits + G and top the row's largest p:
//   y = 2^((p - top) * scale) / total,  scale = log2(e) / tau
//   dlogits = y (g - <y, g>) / tau,     dtau = -sum dlogits log y
// Masked entries (-inf) drop out by themselves; NaN, and +inf - +inf, reach the whole row through its total.
#pragma once

#include "common/numerics.h"

namespace dvae {

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
