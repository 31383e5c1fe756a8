// The binary concrete kernels, written once over the SIMD layer. Included once per target by foreach_target.h.
//
// Samples are taken from e = 2^-|t|, t = (l + L) log2(e) / tau: both zeta = 1 / (1 + e) or e / (1 + e) and its slope
// e / (1 + e)^2 keep their relative accuracy, and nothing overflows.

#ifndef DVAE_TARGET  // for an editor
#include "binary_concrete/arguments.h"
#include "simd/editor.h"
#endif

template <class F>
F perturbed_logit(const Functions<F>& f, F logit, const uint32_t* bits) {
  return fma_exact(log2_odds(f, bits), F(kLn2<typename F::Scalar>), logit);
}

// 1 / tau and log2(e) / tau, kept finite, because they multiply numbers that may be zero.
template <class F>
struct InverseTau {
  F inverse, scale;

  explicit InverseTau(double tau) {
    using Scalar = typename F::Scalar;
    const double largest = kLargest<Scalar>, finite = std::min(1 / tau, largest);
    inverse = F(static_cast<Scalar>(finite));
    scale = F(static_cast<Scalar>(std::min(finite * kLog2e<double>, largest)));
  }
};

template <class F>
void relax_bits(const BinaryConcreteArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const F scale = InverseTau<F>(args.tau.value).scale;
  const bool hard = args.hard || args.tau.value == 0, large = is_large(args.blocks.count, args.sample.type);
  const Functions<F> f;
  BlockNoise noise(args.blocks, args.key.read());
  visit<Scalar>(args.logits.type, args.sample.type, [&](auto narrow, auto wide) {
    for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int lacking) {
      const auto* logits = static_cast<const decltype(narrow)*>(args.logits.data) + first;
      auto* sample = static_cast<decltype(wide)*>(args.sample.data) + first;
      const bool stream = streams(large, sample);
      const uint32_t* bits = noise.draw(block, elements, lacking, logits);
      if (hard) {
        put_elements<F>(sample, elements, stream, [=](int64_t j, auto count) {
          const F p = perturbed_logit(f, load_elements<F>(logits + j, count), bits + j);
          return select(is_nan(p), p, select(p > F(0), F(1), F(0)));
        });
      } else {
        put_elements<F>(sample, elements, stream, [=](int64_t j, auto count) {
          const F t = perturbed_logit(f, load_elements<F>(logits + j, count), bits + j) * scale;
          const F e = exp2(F(0) - absolute(t)), r = reciprocal(F(1) + e);
          return select(t > F(0), r, e * r);
        });
      }
    });
  });
  if (large) fence_streams();
}

template <class F>
void relax_bits_bwd(const BinaryConcreteBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const InverseTau<F> tau(args.tau.value);
  const F scale = tau.scale, inverse_tau = tau.inverse;
  const bool large = is_large(args.blocks.count, args.dlogits.type);
  auto* partials = static_cast<Scalar*>(args.dtau_partials.data);
  const Functions<F> f;
  BlockNoise noise(args.blocks, args.key.read());
  visit<Scalar>(args.logits.type, args.grad.type, [&](auto narrow, auto wide) {
    for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int lacking) {
      const auto* logits = static_cast<const decltype(narrow)*>(args.logits.data) + first;
      const auto* grad = static_cast<const decltype(wide)*>(args.grad.data) + first;
      auto* dlogits = static_cast<decltype(narrow)*>(args.dlogits.data) + first;
      const bool stream = streams(large, dlogits);
      const uint32_t* bits = noise.draw(block, elements, lacking, logits, grad);
      F sum(0);
      put_elements<F>(dlogits, elements, stream, [=, &sum](int64_t j, auto count) {
        const F t = perturbed_logit(f, load_elements<F>(logits + j, count), bits + j) * scale;
        const F e = exp2(F(0) - absolute(t)), r = reciprocal(F(1) + e);
        const F dlogit = load_elements<F>(grad + j, count) * (e * r * r) * inverse_tau;
        sum = fma(dlogit, select(e == F(0), F(0), t), sum);  // infinite logits have no gradient
        return dlogit;
      });
      if (partials != nullptr) partials[block] = -kLn2<Scalar> * reduce_add(sum);
    });
  });
  if (large) fence_streams();
}

// The log density and its gradients share y inside (0, 1), its logarithms, t = tau logit(y) - l and e = e^-|t|.
template <class F>
struct BinaryConcretePoint {
  using Scalar = typename F::Scalar;
  F y, one_minus_y, log2_y, log2_1y, t, e;

  BinaryConcretePoint(const Functions<F>& f, F given, F logit, F tau) {
    constexpr Scalar top = 1 - kEpsilon<Scalar> / 2;
    y = F(0) - max(F(-top), F(0) - max(F(kLeastNormal<Scalar>), given));  // NaN passes
    one_minus_y = F(1) - y;
    log2_y = f.log2(y);
    log2_1y = f.log2(one_minus_y);
    t = fma((log2_y - log2_1y) * F(kLn2<Scalar>), tau, F(0) - logit);
    e = exp2(absolute(t) * F(-kLog2e<Scalar>));
  }
};

template <class F>
void bit_log_density(const BinaryConcreteLogProbArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const Functions<F> f;
  const F tau(static_cast<Scalar>(args.tau.value)), log_tau(static_cast<Scalar>(std::log(args.tau.value)));
  const bool large = is_large(args.blocks.count, args.log_prob.type);
  visit<Scalar>(args.logits.type, args.y.type, [&](auto narrow, auto wide) {
    for_blocks(args.blocks, begin, end, [&](int64_t, int64_t first, int elements, int) {
      const auto* y = static_cast<const decltype(wide)*>(args.y.data) + first;
      const auto* logits = static_cast<const decltype(narrow)*>(args.logits.data) + first;
      auto* log_prob = static_cast<Scalar*>(args.log_prob.data) + first;
      const bool stream = streams(large, log_prob);
      put_elements<F>(log_prob, elements, stream, [=](int64_t j, auto count) {
        const F given = load_elements<F>(y + j, count);
        const BinaryConcretePoint<F> at(f, given, load_elements<F>(logits + j, count), tau);
        const F logs = fma(f.log2(F(1) + at.e), F(2), at.log2_y + at.log2_1y);
        return select(is_nan(given), given, fma(logs, F(-kLn2<Scalar>), log_tau - absolute(at.t)));
      });
    });
  });
  if (large) fence_streams();
}

template <class F>
void bit_log_density_bwd(const BinaryConcreteLogProbBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const Functions<F> f;
  const F tau(static_cast<Scalar>(args.tau.value)), inverse_tau(static_cast<Scalar>(1 / args.tau.value));
  const bool large = is_large(args.blocks.count, args.dy.type);
  auto* partials = static_cast<Scalar*>(args.dtau_partials.data);
  visit<Scalar>(args.logits.type, args.y.type, [&](auto narrow, auto wide) {
    for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int) {
      const auto* grad = static_cast<const Scalar*>(args.grad.data) + first;
      const auto* y = static_cast<const decltype(wide)*>(args.y.data) + first;
      const auto* logits = static_cast<const decltype(narrow)*>(args.logits.data) + first;
      auto* dy = static_cast<decltype(wide)*>(args.dy.data) + first;
      auto* dlogits = static_cast<decltype(narrow)*>(args.dlogits.data) + first;
      const bool stream_dy = streams(large, dy), stream_dlogits = streams(large, dlogits);
      F sum(0);
      for_vectors<F>(0, elements, [=, &sum](int64_t j, auto count) {
        const F given = load_elements<F>(y + j, count), g = load_elements<F>(grad + j, count);
        const BinaryConcretePoint<F> at(f, given, load_elements<F>(logits + j, count), tau);
        F tanh = (F(1) - at.e) * reciprocal(F(1) + at.e);  // of t / 2
        tanh = select(is_nan(given), given, select(F(0) > at.t, F(0) - tanh, tanh));
        const F slope = (at.y - at.one_minus_y - tau * tanh) * reciprocal(at.y * at.one_minus_y);
        const F dgiven = select(at.y == given, g * slope, select(is_nan(given), given, F(0)));
        store_elements<F>(dgiven, dy + j, count, stream_dy);
        store_elements<F>(g * tanh, dlogits + j, count, stream_dlogits);
        sum = fma(g, inverse_tau - tanh * ((at.log2_y - at.log2_1y) * F(kLn2<Scalar>)), sum);
      });
      if (partials != nullptr) partials[block] = reduce_add(sum);
    });
  });
  if (large) fence_streams();
}

// The entries.

void binary_concrete_fwd(const BinaryConcreteArgs& args, int64_t begin, int64_t end) {
  (args.logits.type == Storage::float64 ? relax_bits<F64> : relax_bits<F32>)(args, begin, end);
}

void binary_concrete_bwd(const BinaryConcreteBackwardArgs& args, int64_t begin, int64_t end) {
  (args.logits.type == Storage::float64 ? relax_bits_bwd<F64> : relax_bits_bwd<F32>)(args, begin, end);
}

void binary_concrete_log_prob_fwd(const BinaryConcreteLogProbArgs& args, int64_t begin, int64_t end) {
  (args.logits.type == Storage::float64 ? bit_log_density<F64> : bit_log_density<F32>)(args, begin, end);
}

void binary_concrete_log_prob_bwd(const BinaryConcreteLogProbBackwardArgs& args, int64_t begin, int64_t end) {
  (args.logits.type == Storage::float64 ? bit_log_density_bwd<F64> : bit_log_density_bwd<F32>)(args, begin, end);
}
