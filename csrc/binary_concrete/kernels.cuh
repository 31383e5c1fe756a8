// The CUDA kernels of the binary concrete distribution, and the choice among them; nothing here needs torch, so that
// the host shim can run it all. Every tensor is read or written once.
#pragma once

#include "binary_concrete/arguments.h"
#include "binary_concrete/formulas.h"
#include "cuda/elements.cuh"

namespace dvae {

// The sample: relaxed, or zeros and ones where `hard` or tau is zero.
template <class Logits, class Sample>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Logits::Acc>) binary_concrete_fwd_kernel(
    ElementPlan plan, Logits logits, Sample sample, KeyWords key,
    TauArgument<typename Logits::Acc> tau_argument, bool hard) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const LogisticNoise noise(key);
  const Temperature<Acc> tau = tau_argument.temperature();
  const bool step = hard || tau.zero;
  for_chunks<kChunk>(plan, [&](const ElementChunk& chunk) {
    Acc x[kChunk];
    logits.load(chunk, x, Acc(0));
    noise.add(chunk, x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      x[i] = tau.invalid() ? kNaN<Acc> : step ? hard_bit(x[i]) : relaxed_bit(x[i], tau.scale);
    }
    sample.store(chunk, x);
  });
}

// Recomputes the sample; dtau_partials may be null.
template <class Logits, class Sample>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Logits::Acc>) binary_concrete_bwd_kernel(
    ElementPlan plan, Sample grad, Logits logits, Logits dlogits, KeyWords key,
    TauArgument<typename Logits::Acc> tau_argument, typename Logits::Acc* dtau_partials) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const LogisticNoise noise(key);
  const Temperature<Acc> tau = tau_argument.temperature();
  Acc partial = 0;
  for_chunks<kChunk>(plan, [&](const ElementChunk& chunk) {
    Acc x[kChunk], g[kChunk];
    logits.load(chunk, x, Acc(0));
    grad.load(chunk, g, Acc(0));
    noise.add(chunk, x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Acc dlogit = bit_gradient(x[i], g[i], tau.scale, tau.inverse, &partial);
      x[i] = tau.zero ? Acc(0) : dlogit;
    }
    dlogits.store(chunk, x);
  });
  if (dtau_partials != nullptr) write_block_sum(tau.zero ? Acc(0) : -kLn2<Acc> * partial, dtau_partials);
}

template <class Logits, class Sample>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Logits::Acc>)
    binary_concrete_log_prob_fwd_kernel(
        ElementPlan plan, Sample y, Logits logits, Elements<typename Logits::Acc> log_prob,
        TauArgument<typename Logits::Acc> tau_argument) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const Acc tau = tau_argument.get(), log_tau = log_of_tau(tau);
  for_chunks<kChunk>(plan, [&](const ElementChunk& chunk) {
    Acc x[kChunk], l[kChunk];
    y.load(chunk, x, Acc(0));
    logits.load(chunk, l, Acc(0));
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = binary_log_density(x[i], l[i], tau, log_tau);
    log_prob.store(chunk, x);
  });
}

template <class Logits, class Sample>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Logits::Acc>)
    binary_concrete_log_prob_bwd_kernel(
        ElementPlan plan, Elements<typename Logits::Acc> grad, Sample y, Logits logits, Sample dy, Logits dlogits,
        TauArgument<typename Logits::Acc> tau_argument, typename Logits::Acc* dtau_partials) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const Acc given_tau = tau_argument.get();
  const Acc tau = given_tau > 0 && given_tau <= kLargest<Acc> ? given_tau : kNaN<Acc>;
  const Acc inverse_tau = fast_reciprocal(tau);
  Acc partial = 0;
  for_chunks<kChunk>(plan, [&](const ElementChunk& chunk) {
    Acc x[kChunk], l[kChunk], g[kChunk];
    grad.load(chunk, g, Acc(0));
    y.load(chunk, x, Acc(0));
    logits.load(chunk, l, Acc(0));
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const BinaryLogDensityGradient<Acc> gradient(g[i], x[i], l[i], tau, inverse_tau);
      x[i] = gradient.dy;
      l[i] = gradient.dlogit;
      partial += gradient.dtau;
    }
    dy.store(chunk, x);
    dlogits.store(chunk, l);
  });
  if (dtau_partials != nullptr) write_block_sum(partial, dtau_partials);
}

inline void binary_concrete_fwd(Stream stream, const BinaryConcreteArgs& args) {
  with_elements(args.logits.type, args.sample.type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    launch_elements(
        plan_elements(args.blocks, {args.logits, args.sample}), stream, binary_concrete_fwd_kernel<Logits, Sample>,
        Logits(args.logits), Sample(args.sample), args.key, tau_argument<typename Logits::Acc>(args.tau), args.hard);
  });
}

inline void binary_concrete_bwd(Stream stream, const BinaryConcreteBackwardArgs& args) {
  with_elements(args.logits.type, args.grad.type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.grad, args.logits, args.dlogits}), stream,
        binary_concrete_bwd_kernel<Logits, Sample>, Sample(args.grad), Logits(args.logits), Logits(args.dlogits),
        args.key, tau_argument<Acc>(args.tau), static_cast<Acc*>(args.dtau_partials.data));
  });
}

inline void binary_concrete_log_prob_fwd(Stream stream, const BinaryConcreteLogProbArgs& args) {
  with_elements(args.logits.type, args.y.type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.y, args.logits, args.log_prob}), stream,
        binary_concrete_log_prob_fwd_kernel<Logits, Sample>, Sample(args.y), Logits(args.logits),
        Elements<Acc>(args.log_prob), tau_argument<Acc>(args.tau));
  });
}

inline void binary_concrete_log_prob_bwd(Stream stream, const BinaryConcreteLogProbBackwardArgs& args) {
  with_elements(args.logits.type, args.y.type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.grad, args.y, args.logits, args.dy, args.dlogits}), stream,
        binary_concrete_log_prob_bwd_kernel<Logits, Sample>, Elements<Acc>(args.grad), Sample(args.y),
        Logits(args.logits), Sample(args.dy), Logits(args.dlogits), tau_argument<Acc>(args.tau),
        static_cast<Acc*>(args.dtau_partials.data));
  });
}

}  // namespace dvae
