// The CUDA kernels of the categorical divergence and the concrete density, and the choice among them; nothing here needs
// torch. Rows that fit in shared memory are read once: a first pass reduces, a second one uses the cache. What does not
// fit is read again.
#pragma once

#include "categorical_kl/formulas.h"
#include "cuda/arguments.cuh"

namespace dvae {

// states of Divergence or Density, and one sum
constexpr int kStateValues = 6;

// The sum's place behind the states.
template <class Acc>
__device__ unsigned char* sum_states(unsigned char* states, const RowPlan& plan) {
  return states + (int64_t{5} << (2 * plan.rows_log2 + plan.lanes_log2 - 5)) * sizeof(Acc);
}

// Calls use(chunk, values) for the thread's chunks of N tensors' rows, read by load(chunk, values).
template <class Input, int N, class Load, class Use>
__device__ void visit_row(const RowPlace& place, const Load& load, const Use& use) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk, kBatch = Input::kBatch;
  for (uint32_t first = place.lane; first < place.chunks; first += kBatch * place.lanes) {
    Acc x[kBatch][N][kChunk];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk < place.chunks) load(chunk, x[b]);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk < place.chunks) use(chunk, x[b]);
    }
  }
}

// The rows of logits and, with one, of the prior.
template <class Input, bool kPrior>
struct KlRows {
  using Acc = typename Input::Acc;
  static constexpr int kChunk = Input::kChunk, N = kPrior ? 2 : 1;
  typename Input::Row logits, prior;

  __device__ KlRows(const Input& logits, const Input& prior, const RowPlace& place)
      : logits(logits.row(place)), prior(prior.row(place)) {}

  __device__ void load(uint32_t chunk, Acc (&x)[N][kChunk]) const {
    logits.load(chunk, x[0], kMinusInfinity<Acc>);
    if constexpr (kPrior) prior.load(chunk, x[1], kMinusInfinity<Acc>);
  }
};

template <class Cache, int N>
struct Caches {
  Cache of[N];
};
template <class Cache>
__device__ Caches<Cache, 1> make_caches(
    unsigned char* memory, const RowPlan& plan, const RowPlace& place, std::integral_constant<int, 1>) {
  return {{{memory, 0, plan, place}}};
}
template <class Cache>
__device__ Caches<Cache, 2> make_caches(
    unsigned char* memory, const RowPlan& plan, const RowPlace& place, std::integral_constant<int, 2>) {
  return {{{memory, 0, plan, place}, {memory, 1, plan, place}}};
}

template <bool kPrior, class Input>
__global__ void __launch_bounds__(kRowThreads<typename Input::Acc>, 1) categorical_kl_fwd_kernel(
    RowPlan plan, Input logits, Input prior, typename Input::Acc* kl) {
  using Acc = typename Input::Acc;
  using Rows = KlRows<Input, kPrior>;
  constexpr int kChunk = Input::kChunk, N = Rows::N;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Rows rows(logits, prior, place);
  const auto caches = make_caches<typename Input::Cache>(memory, plan, place, std::integral_constant<int, N>());
  const auto& cache = caches.of;
  unsigned char* states = RowShared{memory, plan}.template states<Acc>(N, 0);

  Divergence<Acc, kPrior, false> row;
  visit_row<Input, N>(
      place, [&](uint32_t chunk, Acc (&x)[N][kChunk]) { rows.load(chunk, x); },
      [&](uint32_t chunk, const Acc (&x)[N][kChunk]) {
        row.add(x[0], x[N - 1]);
        if (chunk >= plan.cached / kChunk) return;
#pragma unroll
        for (int n = 0; n < N; ++n) cache[n].put(chunk, x[n]);
      });
  row = reduce_row(plan, place, row, states, [](auto& a, const auto& b) { a.merge(b); });

  const Acc uniform = fast_reciprocal(static_cast<Acc>(plan.columns));
  const Acc prior_total = kPrior ? row.prior_total : static_cast<Acc>(plan.columns);
  const Acc normal = natural_log(row.total * fast_reciprocal(prior_total == 0 ? Acc(1) : prior_total));
  const Acc inverse = inverse_or_zero(row.total), prior_inverse = inverse_or_zero(row.prior_total);
  Acc sum = 0;
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc x[N][kChunk];
    if (chunk < plan.cached / kChunk) {
#pragma unroll
      for (int n = 0; n < N; ++n) cache[n].get(chunk, x[n]);
    } else {
      rows.load(chunk, x);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      Acc m = uniform;
      if (kPrior) {
        m = natural_exp(x[N - 1][i] - or_zero(row.prior_top)) * prior_inverse;
      } else if (std::is_same_v<Input, StridedTensor<Acc>> && int64_t{chunk} * kChunk + i >= place.columns) {
        m = 0;
      }
      const Acc pi = natural_exp(x[0][i] - or_zero(row.top)) * inverse;
      sum += divergence_term(row.delta(x[0][i], x[N - 1][i]) - normal, pi, m);
    }
  }
  sum = reduce_row(plan, place, sum, sum_states<Acc>(states, plan), [](Acc& a, Acc b) { a += b; });
  if (place.lane == 0 && place.chunks) kl[place.row] = row.total == 0 ? kNaN<Acc> : sum;
}

// dprior is written where prior_grad.
template <bool kPrior, class Input>
__global__ void __launch_bounds__(kRowThreads<typename Input::Acc>, 1) categorical_kl_bwd_kernel(
    RowPlan plan, const typename Input::Acc* grads, Input logits, Input prior, Input dprior, Input dlogits,
    bool prior_grad) {
  using Acc = typename Input::Acc;
  using Rows = KlRows<Input, kPrior>;
  constexpr int kChunk = Input::kChunk, N = Rows::N;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Rows rows(logits, prior, place);
  const auto caches = make_caches<typename Input::Cache>(memory, plan, place, std::integral_constant<int, N>());
  const auto& cache = caches.of;
  unsigned char* states = RowShared{memory, plan}.template states<Acc>(N, 0);

  Divergence<Acc, kPrior, true> row;
  visit_row<Input, N>(
      place, [&](uint32_t chunk, Acc (&x)[N][kChunk]) { rows.load(chunk, x); },
      [&](uint32_t chunk, const Acc (&x)[N][kChunk]) {
        row.add(x[0], x[N - 1]);
        if (chunk >= plan.cached / kChunk) return;
#pragma unroll
        for (int n = 0; n < N; ++n) cache[n].put(chunk, x[n]);
      });
  row = reduce_row(plan, place, row, states, [](auto& a, const auto& b) { a.merge(b); });

  const Acc grad = place.chunks ? grads[place.row] : Acc(0);
  const Acc inverse = inverse_or_zero(row.total), prior_inverse = inverse_or_zero(row.prior_total);
  const Acc mean = row.dot * inverse;
  const auto reload = [&](uint32_t chunk, Acc (&x)[N][kChunk]) { rows.load(chunk, x); };
  const auto probability = [&](Acc x) { return natural_exp(x - or_zero(row.top)) * inverse; };
  write_row(plan, place, dlogits.row(place), cache, reload, [&](const Acc (&x)[N]) {
    const Acc pi = probability(x[0]);
    return pi == 0 ? Acc(0) : grad * pi * (row.delta(x[0], x[N - 1]) - mean);
  });
  if (!kPrior || !prior_grad) return;
  write_row(plan, place, dprior.row(place), cache, reload, [&](const Acc (&x)[N]) {
    return grad * (natural_exp(x[N - 1] - or_zero(row.prior_top)) * prior_inverse - probability(x[0]));
  });
}

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
  visit_row<Logits, 2>(
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
  visit_row<Logits, 2>(
      place, [&](uint32_t chunk, Acc (&x)[2][kChunk]) { rows.load(chunk, x); },
      [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
        rows.to_energy(x);
        row.add(x[0], x[1]);
        if (chunk >= plan.cached / kChunk) return;
        cache[0].put(chunk, x[0]);
        cache[1].put(chunk, x[1]);
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

// tensors: prior, logits; without a prior its place holds the logits
inline void categorical_kl_fwd(
    const RowCall& call, const RowLayout<2>& any_layout, const Buffer (&tensors)[2], bool prior, void* kl) {
  const RowLayout<2> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_type(chunk, tensors[1].type, [&](auto type) {
    using Input = typename decltype(type)::type;
    using Acc = typename Input::Acc;
    const Input first(tensors[0], strides[0]), logits(tensors[1], strides[1]);
    const RowPlan plan = call.plan<Acc>(layout, chunk, prior ? 2 : 1, kStateValues);
    auto* out = static_cast<Acc*>(kl);
    prior ? launch(plan, call.stream, categorical_kl_fwd_kernel<true, Input>, logits, first, out)
          : launch(plan, call.stream, categorical_kl_fwd_kernel<false, Input>, logits, first, out);
  });
}

// tensors: logits, prior, dprior, dlogits; in the place of what there is not, the logits. grads: one value a row
inline void categorical_kl_bwd(
    const RowCall& call, const RowLayout<4>& any_layout, const Buffer (&tensors)[4], bool prior, bool prior_grad,
    const void* grads) {
  const RowLayout<4> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_type(chunk, tensors[0].type, [&](auto type) {
    using Input = typename decltype(type)::type;
    using Acc = typename Input::Acc;
    const RowPlan plan = call.plan<Acc>(layout, chunk, prior ? 2 : 1, kStateValues);
    launch(
        plan, call.stream, prior ? categorical_kl_bwd_kernel<true, Input> : categorical_kl_bwd_kernel<false, Input>,
        static_cast<const Acc*>(grads), Input(tensors[0], strides[0]), Input(tensors[1], strides[1]),
        Input(tensors[2], strides[2]), Input(tensors[3], strides[3]), prior_grad);
  });
}

// tensors: y, logits; density and count: one value a row, in the compute type
inline void gumbel_softmax_log_prob_fwd(
    const RowCall& call, const RowLayout<2>& any_layout, const Buffer (&tensors)[2], void* density, void* count) {
  const RowLayout<2> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_types(chunk, tensors[1].type, tensors[0].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Samples = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch(
        call.plan<Acc>(layout, chunk, 0, kStateValues), call.stream,
        gumbel_softmax_log_prob_fwd_kernel<Samples, Logits>, Samples(tensors[0], strides[0]),
        Logits(tensors[1], strides[1]), call.tau_argument<Acc>(), static_cast<Acc*>(density),
        static_cast<Acc*>(count));
  });
}

// tensors: y, logits, dy, dlogits; dtau_rows in the compute type, or null
inline void gumbel_softmax_log_prob_bwd(
    const RowCall& call, const RowLayout<4>& any_layout, const Buffer (&tensors)[4], const void* grads,
    void* dtau_rows) {
  const RowLayout<4> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_types(chunk, tensors[1].type, tensors[0].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Samples = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch(
        call.plan<Acc>(layout, chunk, 2, kStateValues), call.stream,
        gumbel_softmax_log_prob_bwd_kernel<Samples, Logits>, static_cast<const Acc*>(grads),
        Samples(tensors[0], strides[0]), Logits(tensors[1], strides[1]), Samples(tensors[2], strides[2]),
        Logits(tensors[3], strides[3]), call.tau_argument<Acc>(), static_cast<Acc*>(dtau_rows));
  });
}

}  // namespace dvae
