// The scalar mathematics of ReinMax and Gumbel-Rao, for host and device; the means are of the incoming gradient g.
// Masked entries (-inf) have weight zero. Gumbel-Rao's rows with NaN or +inf are known by their index.
#pragma once

#include "common/numerics.h"

namespace dvae {

// 2 J_((warm + D) / 2) g - J_pi g / 2 of one entry, warm = softmax(logits / tau), pi = softmax(logits); `chosen` where
// the one-hot sample D is one.
template <class T>
DVAE_HD inline T reinmax_gradient(T pi, T warm, bool chosen, T g, T mean, T mixed_mean) {
  return (chosen ? warm + 1 : warm) * (g - mixed_mean) - T(0.5) * pi * (g - mean);
}

// exp((s_j - s_i) / tau) = (1 + E_j 2^deficit / E_i)^(-1 / tau) of an entry j that was not chosen, i being the one that
// was and deficit = -log2 softmax(logits)_j. Beyond 2^87 the one is lost, and the power is taken apart from the
// logarithm, which would overflow.
template <class T>
DVAE_HD inline T gumbel_rao_weight(T noise, T inverse_chosen_noise, T deficit, T inverse_tau) {
  const T ratio = noise * inverse_chosen_noise * fast_exp2(fmin(deficit, T(87)));
  const T bits = fast_log2(ratio + 1) + fmax(deficit - T(87), T(0));
  return fast_exp2(-bits * inverse_tau);
}

}  // namespace dvae
