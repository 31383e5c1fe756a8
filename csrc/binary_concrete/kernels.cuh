// The CUDA kernels of the binary concrete distribution, and the choice among them; nothing here needs torch, so that
// the host shim can run it all. Every tensor is read or written once.
#pragma once

#include "binary_concrete/formulas.h"
#include "cuda/elements.cuh"

namespace dvae {

// The sample: relaxed, or zeros and ones where `hard` or tau is zero.
template <class Logits, class Sample>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Logits::Acc>) binary_concrete_fwd_kernel(
    ElementPlan plan, Logits logits, Sample sample, NoiseArgument noise_argument,
    TauArgument<typename Logits::Acc> tau_argument, bool hard) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const LogisticNoise noise(noise_argument);
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

// Gradients from the sample made again; dtau_parts may be null.
template <class Logits, class Sample>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Logits::Acc>) binary_concrete_bwd_kernel(
    ElementPlan plan, Sample grad, Logits logits, Logits dlogits, NoiseArgument noise_argument,
    TauArgument<typename Logits::Acc> tau_argument, typename Logits::Acc* dtau_parts) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const LogisticNoise noise(noise_argument);
  const Temperature<Acc> tau = tau_argument.temperature();
  Acc part = 0;
  for_chunks<kChunk>(plan, [&](const ElementChunk& chunk) {
    Acc x[kChunk], g[kChunk];
    logits.load(chunk, x, Acc(0));
    grad.load(chunk, g, Acc(0));
    noise.add(chunk, x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Acc dlogit = bit_gradient(x[i], g[i], tau.scale, tau.inverse, &part);
      x[i] = tau.zero ? Acc(0) : dlogit;
    }
    dlogits.store(chunk, x);
  });
  if (dtau_parts != nullptr) write_block_sum(tau.zero ? Acc(0) : -kLn2<Acc> * part, dtau_parts);
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
    TauArgument<typename Logits::Acc> tau_argument, typename Logits::Acc* dtau_parts) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  const Acc given_tau = tau_argument.get();
  const Acc tau = given_tau > 0 && given_tau <= kLargest<Acc> ? given_tau : kNaN<Acc>;
  const Acc inverse_tau = fast_reciprocal(tau);
  Acc part = 0;
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
      part += gradient.dtau;
    }
    dy.store(chunk, x);
    dlogits.store(chunk, l);
  });
  if (dtau_parts != nullptr) write_block_sum(part, dtau_parts);
}

// tensors: logits, sample
inline void binary_concrete_fwd(
    const RowCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[2], bool hard) {
  with_elements(tensors[0].type, tensors[1].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    launch_elements(
        plan_elements(blocks, tensors), call.stream, binary_concrete_fwd_kernel<Logits, Sample>, Logits(tensors[0]),
        Sample(tensors[1]), call.noise, call.tau_argument<typename Logits::Acc>(), hard);
  });
}

// tensors: grad, logits, dlogits; dtau_parts in the compute type, or null
inline void binary_concrete_bwd(
    const RowCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[3], void* dtau_parts) {
  with_elements(tensors[1].type, tensors[0].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch_elements(
        plan_elements(blocks, tensors), call.stream, binary_concrete_bwd_kernel<Logits, Sample>, Sample(tensors[0]),
        Logits(tensors[1]), Logits(tensors[2]), call.noise, call.tau_argument<Acc>(), static_cast<Acc*>(dtau_parts));
  });
}

// tensors: y, logits, log density in the compute type
inline void binary_concrete_log_prob_fwd(
    const RowCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[3]) {
  with_elements(tensors[1].type, tensors[0].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch_elements(
        plan_elements(blocks, tensors), call.stream, binary_concrete_log_prob_fwd_kernel<Logits, Sample>,
        Sample(tensors[0]), Logits(tensors[1]), Elements<Acc>(tensors[2]), call.tau_argument<Acc>());
  });
}

// tensors: grad in the compute type, y, logits, dy, dlogits; dtau_parts in the compute type, or null
inline void binary_concrete_log_prob_bwd(
    const RowCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[5], void* dtau_parts) {
  with_elements(tensors[2].type, tensors[1].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch_elements(
        plan_elements(blocks, tensors), call.stream, binary_concrete_log_prob_bwd_kernel<Logits, Sample>,
        Elements<Acc>(tensors[0]), Sample(tensors[1]), Logits(tensors[2]), Sample(tensors[3]), Logits(tensors[4]),
        call.tau_argument<Acc>(), static_cast<Acc*>(dtau_parts));
  });
}

}  // namespace dvae
