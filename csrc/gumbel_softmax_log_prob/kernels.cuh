// The CUDA kernels of the concrete density, and the choice among them; nothing here needs torch. Rows that fit in shared
// memory are read once: a first pass reduces, a second one uses the cache. What does not fit is read again.
#pragma once

#include "cuda/arguments.cuh"
#include "gumbel_softmax_log_prob/arguments.h"
#include "gumbel_softmax_log_prob/formulas.h"

namespace dvae {

// the states of Density, and one sum
constexpr int kDensityStates = 6;

// Reads samples and logits as (y, energy).
template <class Samples, class Logits>
struct EnergyRows {
  using Acc = typename Logits::Acc;
  static constexpr int kChunk = Logits::kChunk;
  typename Samples::Row samples;
  typename Logits::Row logits;
  Acc tau;

  __device__ EnergyRows(const Samples& samples, const Logits& logits, const RowPlace& place, Acc tau)
      : samples(samples.row(place)), logits(logits.row(place)), tau(tau) {}

  __device__ void load(uint32_t chunk, Acc (&x)[2][kChunk]) const {
    samples.load(chunk, x[0], 1);
    logits.load(chunk, x[1], kMinusInfinity<Acc>);
  }
  __device__ void to_energy(Acc (&x)[2][kChunk]) const {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[1][i] = sample_energy(x[0][i], x[1][i], tau);
  }
};

template <class Samples, class Logits>
__global__ void __launch_bounds__(kRowThreads<typename Logits::Acc>, 1) gumbel_softmax_log_prob_fwd_kernel(
    RowPlan plan, Samples samples, Logits logits, TauArgument<typename Logits::Acc> tau_argument,
    typename Logits::Acc* density, typename Logits::Acc* count) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Acc tau = positive_or_nan(tau_argument.get());
  const EnergyRows<Samples, Logits> rows(samples, logits, place, tau);
  Density<Acc, false> row;
  read_row<Logits, 2>(
      place, [&](uint32_t chunk, Acc (&x)[2][kChunk]) { rows.load(chunk, x); },
      [&](uint32_t, Acc (&x)[2][kChunk]) {
        rows.to_energy(x);
        row.add(x[0], x[1]);
      });
  row = reduce_row(plan, place, row, RowShared{memory, plan}.template states<Acc>(0, 0),
                   [](auto& a, const auto& b) { a.merge(b); });
  if (place.lane || !place.chunks) return;
  density[place.row] = row.density(tau);
  count[place.row] = row.count;
}

// dtau_rows may be null.
template <class Samples, class Logits>
__global__ void __launch_bounds__(kRowThreads<typename Logits::Acc>, 1) gumbel_softmax_log_prob_bwd_kernel(
    RowPlan plan, const typename Logits::Acc* grads, Samples samples, Logits logits, Samples dsamples, Logits dlogits,
    TauArgument<typename Logits::Acc> tau_argument, typename Logits::Acc* dtau_rows) {
  using Acc = typename Logits::Acc;
  constexpr int kChunk = Logits::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Acc tau = positive_or_nan(tau_argument.get());
  const EnergyRows<Samples, Logits> rows(samples, logits, place, tau);
  const typename Logits::Cache cache[2] = {{memory, 0, plan, place}, {memory, 1, plan, place}};
  Density<Acc, true> row;
  read_row<Logits, 2>(
      plan, place, cache, [&](uint32_t chunk, Acc (&x)[2][kChunk]) { rows.load(chunk, x); },
      [&](uint32_t, Acc (&x)[2][kChunk]) {
        rows.to_energy(x);
        row.add(x[0], x[1]);
      });
  row = reduce_row(plan, place, row, RowShared{memory, plan}.template states<Acc>(2, 0),
                   [](auto& a, const auto& b) { a.merge(b); });

  const Acc grad = place.chunks ? grads[place.row] : Acc(0), inverse = inverse_or_zero(row.total);
  const auto reload = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    rows.load(chunk, x);
    rows.to_energy(x);
  };
  const auto share = [&](Acc energy) { return natural_exp(energy - or_zero(row.top)) * inverse; };
  write_row(plan, place, dsamples.row(place), cache, reload, [&](const Acc (&x)[2]) {
    return density_sample_gradient(grad, x[0], x[1], share(x[1]), row.count, tau);
  });
  write_row(plan, place, dlogits.row(place), cache, reload, [&](const Acc (&x)[2]) {
    return density_logit_gradient(grad, x[1], share(x[1]), row.count);
  });
  if (dtau_rows != nullptr && place.lane == 0 && place.chunks) dtau_rows[place.row] = grad * row.tau_gradient(tau);
}

inline void gumbel_softmax_log_prob_fwd(Stream stream, const LogProbArgs& args) {
  with_row_kernel(args.rows, 1, 0, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    using Acc = typename Kernel::Acc;
    launch(
        kernel.plan(0, kDensityStates), stream,
        gumbel_softmax_log_prob_fwd_kernel<typename Kernel::Wide, typename Kernel::Narrow>, kernel.wide(0),
        kernel.narrow(1), tau_argument<Acc>(args.tau), static_cast<Acc*>(args.density), static_cast<Acc*>(args.count));
  });
}

inline void gumbel_softmax_log_prob_bwd(Stream stream, const LogProbBackwardArgs& args) {
  with_row_kernel(args.rows, 1, 0, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    using Acc = typename Kernel::Acc;
    launch(
        kernel.plan(2, kDensityStates), stream,
        gumbel_softmax_log_prob_bwd_kernel<typename Kernel::Wide, typename Kernel::Narrow>,
        static_cast<const Acc*>(args.grad), kernel.wide(0), kernel.narrow(1), kernel.wide(2), kernel.narrow(3),
        tau_argument<Acc>(args.tau), static_cast<Acc*>(args.dtau_rows));
  });
}

}  // namespace dvae
