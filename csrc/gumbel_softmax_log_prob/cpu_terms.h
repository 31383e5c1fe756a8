// The terms of the concrete density.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax_log_prob/arguments.h"
#include "simd/editor.h"
#endif

// A temperature, or NaN where it is none.
inline double positive_or_nan(double tau) {
  return tau > 0 && tau < std::numeric_limits<double>::infinity() ? tau : kNaN<double>;
}

// log max(y, smallest); NaN and +inf stay what they are.
template <class F>
F log_of_sample(const Functions<F>& f, F y) {
  using Scalar = typename F::Scalar;
  y = max(F(std::numeric_limits<Scalar>::min()), y);
  return select(is_nan(y - y), y, f.log2(y) * F(kLn2<Scalar>));
}

// Gradients of the concrete density, `share` being the softmax of the energies.
template <class F>
struct DensityGradient {
  using Scalar = typename F::Scalar;
  F grad, count, count_tau, tau_plus_1;

  DensityGradient(F grad, F count, double tau)
      : grad(grad),
        count(count),
        count_tau(count * F(static_cast<Scalar>(tau))),
        tau_plus_1(static_cast<Scalar>(tau + 1)) {}

  F to_logits(F x, F share) const { return select(excluded(x), share, grad * (F(1) - count * share)); }
  F to_y(F y, F x, F share) const {
    const F smallest(std::numeric_limits<Scalar>::min());
    const F gradient = grad * (count_tau * share - tau_plus_1) / max(smallest, y);
    return select(smallest > y, F(0), select(excluded(x), share, gradient));
  }

 private:
  // whose share is 0, or NaN in a row with NaN
  static auto excluded(F x) { return x == F(kMinusInfinity<Scalar>); }
};
