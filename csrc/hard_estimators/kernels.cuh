// The CUDA kernels of ReinMax and Gumbel-Rao, and the choice among them; nothing here needs torch, so that the host shim
// can run it all. A row that fits in shared memory is read once; a wider one is read for every pass over it, and
// Gumbel-Rao's noise is drawn twice.
#pragma once

#include <functional>

#include "common/online.h"
#include "cuda/arguments.cuh"
#include "hard_estimators/arguments.h"
#include "hard_estimators/formulas.h"

namespace dvae {

constexpr int kEstimatorStates = 6;  // values of the reductions, a (warp, row)

// softmax(logits) and softmax(logits / tau) with their means of the gradient, in one pass.
template <class T>
struct TwoOnline {
  T top = kMinusInfinity<T>;
  T total = 0, dot = 0, warm_total = 0, warm_dot = 0;

  DVAE_HD void rescale(T larger, T warm_scale) {
    const T shrink = fast_exp2(exponent(top, larger, kLog2e<T>));
    const T warm_shrink = fast_exp2(exponent(top, larger, warm_scale));
    top = larger;
    total = unfused_product(total, shrink);
    dot = unfused_product(dot, shrink);
    warm_total = unfused_product(warm_total, warm_shrink);
    warm_dot = unfused_product(warm_dot, warm_shrink);
  }

  template <int N>
  DVAE_HD void add(const T (&x)[N], const T (&g)[N], T warm_scale) {
    T larger = top;
    for (int i = 0; i < N; ++i) larger = fmax(larger, x[i]);
    rescale(larger, warm_scale);
    for (int i = 0; i < N; ++i) {
      const T weight = fast_exp2(exponent(x[i], larger, kLog2e<T>));
      const T warm = fast_exp2(exponent(x[i], larger, warm_scale));
      total += weight;
      dot += weight * g[i];
      warm_total += warm;
      warm_dot += warm * g[i];
    }
  }

  // Commutes exactly, so that all threads of a row end with the same state.
  DVAE_HD void merge(TwoOnline other, T warm_scale) {
    const T larger = fmax(top, other.top);
    rescale(larger, warm_scale);
    other.rescale(larger, warm_scale);
    total += other.total;
    dot += other.dot;
    warm_total += other.warm_total;
    warm_dot += other.warm_dot;
  }
};

template <class Gradient, class Input>
__global__ void __launch_bounds__(kRowThreads<typename Input::Acc>, 1) reinmax_bwd_kernel(
    RowPlan plan, Gradient grad, Input logits, Input dlogits, const int64_t* indices,
    TauArgument<typename Input::Acc> tau_argument) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto grad_row = grad.row(place);
  const auto input = logits.row(place);
  const auto output = dlogits.row(place);
  if (tau.zero) return fill_row(place, output, [](uint32_t) { return Acc(0); });
  const typename Input::Cache cache[2] = {{memory, 0, plan, place}, {memory, 1, plan, place}};

  // kNoColumn for none
  const auto index = static_cast<uint32_t>(place.chunks ? indices[place.row] : kNone);
  Acc chosen_grad = 0;
  TwoOnline<Acc> online;
  const auto load = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    input.load(chunk, x[0], kMinusInfinity<Acc>);
    grad_row.load(chunk, x[1], 0);
  };
  read_row<Input, 2>(plan, place, cache, load, [&](uint32_t, const Acc (&x)[2][kChunk]) {
    online.add(x[0], x[1], tau.scale);
  });
  online = reduce_row(
      plan, place, online, RowShared{memory, plan}.template states<Acc>(2, 0),
      [&](auto& a, const auto& b) { a.merge(b, tau.scale); });
  if (index < place.columns) chosen_grad = grad_row.at(index);
  const Acc norm = inverse_or_zero(online.total), warm_norm = inverse_or_zero(online.warm_total);
  const Acc mean = online.dot * norm, mixed_mean = (online.warm_dot * warm_norm + chosen_grad) * Acc(0.5);
  const Acc invalid = tau.scale * 0;  // NaN where tau is not a temperature, in rows of only -inf too
  write_row(
      plan, place, output, cache, load,
      [&](const Acc (&x)[2], uint32_t column) {
        const Acc pi = fast_exp2(exponent(x[0], online.top, kLog2e<Acc>)) * norm;
        const Acc warm = fast_exp2(exponent(x[0], online.top, tau.scale)) * warm_norm;
        return reinmax_gradient(pi, warm, column == index, x[1], mean, mixed_mean) + invalid;
      });
}

// -log2 softmax(logits), finite or +inf.
template <class T>
DVAE_HD inline T deficit(T x, const Online<T, false>& online) {
  return fast_log2(online.total == 0 ? T(1) : online.total) - exponent(x, online.top, kLog2e<T>);
}

// What the two Gumbel-Rao kernels know of their row.
template <class Acc>
struct GumbelRaoRow {
  uint32_t index;  // kNoColumn for none
  Acc inverse_tau;
  Acc scale;  // of the sum over draws
  Online<Acc, false> online;

  __device__ GumbelRaoRow(const RowPlace& place, const int64_t* indices, Acc inverse_tau, int draws)
      : inverse_tau(inverse_tau) {
    const int64_t found = place.chunks ? indices[place.row] : kNone;
    index = found < 0 ? kNoColumn : static_cast<uint32_t>(found);
    scale = found == kNan ? kNaN<Acc> : inverse_tau * fast_reciprocal(Acc(draws));
  }

  // The weights of a chunk in a draw.
  template <int kChunk>
  __device__ void weigh(
      const RowNoise& noise, uint32_t draw, Acc inverse_chosen_noise, uint32_t chunk, const Acc (&x)[kChunk],
      Acc (&w)[kChunk]) const {
    noise.exponential(chunk, draw, w);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Acc weight = gumbel_rao_weight(w[i], inverse_chosen_noise, deficit(x[i], online), inverse_tau);
      w[i] = chunk * kChunk + i == index ? Acc(1) : weight;
    }
  }

  __device__ Acc inverse_chosen_noise(const RowNoise& noise, uint32_t draw) const {
    return fast_reciprocal(noise.template exponential_at<Acc>(index, draw));
  }
};

// Rows that fit in shared memory: logits, gradient, weights of a draw, sum over the draws before.
template <class Gradient, class Input>
__global__ void __launch_bounds__(kRowThreads<typename Input::Acc>, 1) gumbel_rao_bwd_kernel(
    RowPlan plan, Gradient grad, Input logits, Input dlogits, const int64_t* indices, NoiseArgument noise_argument,
    TauArgument<typename Input::Acc> tau_argument, int draws) {
  using Acc = typename Input::Acc;
  using Cache = typename Input::Cache;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const RowNoise noise(noise_argument, place.row);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto grad_row = grad.row(place);
  const auto input = logits.row(place);
  const auto output = dlogits.row(place);
  if (tau.zero) return fill_row(place, output, [](uint32_t) { return Acc(0); });
  const Cache cached_x(memory, 0, plan, place);
  const Cache cached[3] = {{memory, 1, plan, place}, {memory, 2, plan, place}, {memory, 3, plan, place}};
  const Cache &cached_g = cached[0], &cached_w = cached[1], &cached_sum = cached[2];
  const RowShared shared{memory, plan};

  GumbelRaoRow<Acc> row(place, indices, tau.inverse, draws);
  const auto load = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    input.load(chunk, x[0], kMinusInfinity<Acc>);
    grad_row.load(chunk, x[1], 0);
  };
  read_row<Input, 2>(place, load, [&](uint32_t chunk, const Acc (&x)[2][kChunk]) {
    row.online.add(x[0], x[0], kLog2e<Acc>);
    cached_x.put(chunk, x[0]);
    cached_g.put(chunk, x[1]);
  });
  row.online = reduce_row(
      plan, place, row.online, shared.template states<Acc>(4, 0),
      [](auto& a, const auto& b) { a.merge(b, kLog2e<Acc>); });

  Acc norm = 0, mean = 0;  // of the draw before
  const auto add_draw = [&](Acc sum, Acc w, Acc g) { return sum + w * norm * (g - mean); };
#pragma unroll 1
  for (int draw = 1; draw <= draws; ++draw) {
    const Acc inverse_chosen_noise = row.inverse_chosen_noise(noise, draw);
    Mean<Acc> sums;
#pragma unroll 1
    for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
      Acc x[kChunk], g[kChunk], w[kChunk];
      cached_g.get(chunk, g);
      {
        Acc sum[kChunk] = {};
        if (draw > 1) {
          cached_w.get(chunk, w);
          cached_sum.get(chunk, sum);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) sum[i] = add_draw(sum[i], w[i], g[i]);
        }
        cached_sum.put(chunk, sum);
      }
      cached_x.get(chunk, x);
      row.weigh(noise, draw, inverse_chosen_noise, chunk, x, w);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sums.add(w[i], g[i]);
      cached_w.put(chunk, w);
    }
    // two places in turn: a thread may still read the sums of the draw before
    sums = reduce_row(
        plan, place, sums, shared.template states<Acc>(4, draw & 1), [](auto& a, const auto& b) { a.merge(b); });
    norm = inverse_or_zero(sums.total);
    mean = sums.value();
  }
  write_row(
      plan, place, output, cached,
      [](uint32_t, Acc (&x)[3][kChunk]) {  // never: every column is cached
        for (auto& values : x) for (Acc& value : values) value = 0;
      },
      [&](const Acc (&x)[3], uint32_t) { return add_draw(x[2], x[1], x[0]) * row.scale; });
}

// Rows that do not fit: (1 / sum w, mean of g) of every draw first, in sums [rows, draws, 2], then the gradient.
template <class Gradient, class Input>
__global__ void __launch_bounds__(kRowThreads<typename Input::Acc>, 1) gumbel_rao_wide_bwd_kernel(
    RowPlan plan, Gradient grad, Input logits, Input dlogits, const int64_t* indices, NoiseArgument noise_argument,
    TauArgument<typename Input::Acc> tau_argument, int draws, typename Input::Acc* all_sums) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const RowNoise noise(noise_argument, place.row);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto grad_row = grad.row(place);
  const auto input = logits.row(place);
  const auto output = dlogits.row(place);
  if (tau.zero) return fill_row(place, output, [](uint32_t) { return Acc(0); });
  const RowShared shared{memory, plan};
  Acc* const draw_sums = all_sums + place.row * draws * 2;
  const auto load = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    input.load(chunk, x[0], kMinusInfinity<Acc>);
    grad_row.load(chunk, x[1], 0);
  };

  GumbelRaoRow<Acc> row(place, indices, tau.inverse, draws);
#pragma unroll 1
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc x[kChunk];
    input.load(chunk, x, kMinusInfinity<Acc>);
    row.online.add(x, x, kLog2e<Acc>);
  }
  row.online = reduce_row(
      plan, place, row.online, shared.template states<Acc>(0, 0),
      [](auto& a, const auto& b) { a.merge(b, kLog2e<Acc>); });
#pragma unroll 1
  for (int draw = 1; draw <= draws; ++draw) {
    const Acc inverse_chosen_noise = row.inverse_chosen_noise(noise, draw);
    Mean<Acc> sums;
    read_row<Input, 2>(place, load, [&](uint32_t chunk, const Acc (&x)[2][kChunk]) {
      Acc w[kChunk];
      row.weigh(noise, draw, inverse_chosen_noise, chunk, x[0], w);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sums.add(w[i], x[1][i]);
    });
    sums = reduce_row(
        plan, place, sums, shared.template states<Acc>(0, draw & 1), [](auto& a, const auto& b) { a.merge(b); });
    if (place.lane == 0 && place.chunks) {
      draw_sums[2 * (draw - 1)] = inverse_or_zero(sums.total);
      draw_sums[2 * (draw - 1) + 1] = sums.value();
    }
  }
  __syncthreads();
#pragma unroll 1
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc x[kChunk], g[kChunk], sum[kChunk] = {};
    input.load(chunk, x, kMinusInfinity<Acc>);
    grad_row.load(chunk, g, 0);
#pragma unroll 1
    for (int draw = 1; draw <= draws; ++draw) {
      Acc w[kChunk];
      row.weigh(noise, draw, row.inverse_chosen_noise(noise, draw), chunk, x, w);
      const Acc norm = draw_sums[2 * (draw - 1)], mean = draw_sums[2 * (draw - 1) + 1];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sum[i] += w[i] * norm * (g[i] - mean);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum[i] *= row.scale;
    output.store(chunk, sum);
  }
}

inline void reinmax_bwd(Stream stream, const ReinmaxArgs& args) {
  with_row_kernel(args.rows, 1, 0, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    launch(
        kernel.plan(2, kEstimatorStates), stream, reinmax_bwd_kernel<typename Kernel::Wide, typename Kernel::Narrow>,
        kernel.wide(0), kernel.narrow(1), kernel.narrow(2), args.indices,
        tau_argument<typename Kernel::Acc>(args.tau));
  });
}

// new_sums(count) gives memory for `count` values of the compute type.
inline void gumbel_rao_bwd(
    Stream stream, const GumbelRaoArgs& args, const std::function<void*(int64_t)>& new_sums) {
  with_row_kernel(args.rows, 1, 0, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    using Narrow = typename Kernel::Narrow;
    using Wide = typename Kernel::Wide;
    using Acc = typename Kernel::Acc;
    const RowPlan plan = kernel.plan(4, kEstimatorStates);
    if (plan.cached >= plan.columns) {
      launch(
          plan, stream, gumbel_rao_bwd_kernel<Wide, Narrow>, kernel.wide(0), kernel.narrow(1), kernel.narrow(2),
          args.indices, args.noise, tau_argument<Acc>(args.tau), args.draws);
    } else {
      launch(
          kernel.plan(0, kEstimatorStates), stream, gumbel_rao_wide_bwd_kernel<Wide, Narrow>, kernel.wide(0),
          kernel.narrow(1), kernel.narrow(2), args.indices, args.noise, tau_argument<Acc>(args.tau), args.draws,
          static_cast<Acc*>(new_sums(kernel.layout.rows() * args.draws * 2)));
    }
  });
}

}  // namespace dvae
