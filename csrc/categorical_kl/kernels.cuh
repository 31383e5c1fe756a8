// The CUDA kernels of the categorical divergence, and the choice among them; nothing here needs torch. Rows that fit in
// shared memory are read once: a first pass reduces, a second one uses the cache. What does not fit is read again.
#pragma once

#include "categorical_kl/arguments.h"
#include "categorical_kl/formulas.h"
#include "cuda/arguments.cuh"

namespace dvae {

// the states of Divergence, and one sum
constexpr int kDivergenceStates = 6;

// The sum's place behind the states.
template <class Acc>
__device__ unsigned char* sum_states(unsigned char* states, const RowPlan& plan) {
  return states + (int64_t{5} << (2 * plan.rows_log2 + plan.lanes_log2 - 5)) * sizeof(Acc);
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
  const auto load = [&](uint32_t chunk, Acc (&x)[N][kChunk]) { rows.load(chunk, x); };
  read_row<Input, N>(plan, place, cache, load, [&](uint32_t, const Acc (&x)[N][kChunk]) { row.add(x[0], x[N - 1]); });
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
      load(chunk, x);
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
  const auto load = [&](uint32_t chunk, Acc (&x)[N][kChunk]) { rows.load(chunk, x); };
  read_row<Input, N>(plan, place, cache, load, [&](uint32_t, const Acc (&x)[N][kChunk]) { row.add(x[0], x[N - 1]); });
  row = reduce_row(plan, place, row, states, [](auto& a, const auto& b) { a.merge(b); });

  const Acc grad = place.chunks ? grads[place.row] : Acc(0);
  const Acc inverse = inverse_or_zero(row.total), prior_inverse = inverse_or_zero(row.prior_total);
  const Acc mean = row.dot * inverse;
  const auto probability = [&](Acc x) { return natural_exp(x - or_zero(row.top)) * inverse; };
  write_row(plan, place, dlogits.row(place), cache, load, [&](const Acc (&x)[N]) {
    const Acc pi = probability(x[0]);
    return pi == 0 ? Acc(0) : grad * pi * (row.delta(x[0], x[N - 1]) - mean);
  });
  if (!kPrior || !prior_grad) return;
  write_row(plan, place, dprior.row(place), cache, load, [&](const Acc (&x)[N]) {
    return grad * (natural_exp(x[N - 1] - or_zero(row.prior_top)) * prior_inverse - probability(x[0]));
  });
}

inline void categorical_kl_fwd(Stream stream, const CategoricalKlArgs& args) {
  with_row_kernel(args.rows, 1, 1, [&](const auto& kernel) {
    using Input = typename std::decay_t<decltype(kernel)>::Narrow;
    launch(
        kernel.plan(args.has_prior ? 2 : 1, kDivergenceStates), stream,
        args.has_prior ? categorical_kl_fwd_kernel<true, Input> : categorical_kl_fwd_kernel<false, Input>,
        kernel.narrow(1), kernel.narrow(0), static_cast<typename Input::Acc*>(args.kl));
  });
}

inline void categorical_kl_bwd(Stream stream, const CategoricalKlBackwardArgs& args) {
  with_row_kernel(args.rows, 0, 0, [&](const auto& kernel) {
    using Input = typename std::decay_t<decltype(kernel)>::Narrow;
    launch(
        kernel.plan(args.has_prior ? 2 : 1, kDivergenceStates), stream,
        args.has_prior ? categorical_kl_bwd_kernel<true, Input> : categorical_kl_bwd_kernel<false, Input>,
        static_cast<const typename Input::Acc*>(args.grad), kernel.narrow(0), kernel.narrow(1), kernel.narrow(2),
        kernel.narrow(3), args.prior_grad);
  });
}

}  // namespace dvae
