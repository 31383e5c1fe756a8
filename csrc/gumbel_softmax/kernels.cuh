// The CUDA kernels of Gumbel-softmax, and the choice among them; nothing here needs torch, so that the host shim can
// run it all. Every kernel reads its rows once where they fit in shared memory: a first pass draws the noise and
// reduces, a second one writes. What does not fit is read, and its noise drawn, again.
#pragma once

#include "common/online.h"
#include "cuda/arguments.cuh"
#include "gumbel_softmax/arguments.h"
#include "gumbel_softmax/formulas.h"

namespace dvae {

// The sample: relaxed, or one-hot where `hard` or tau is zero. A hard sample's index, as gumbel_argmax gives it, goes to
// `indices` unless that is null; then the sample's data may be null.
template <class Input, class Output>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<typename Input::Acc>) gumbel_softmax_fwd_kernel(
    RowPlan plan, Input logits, Output sample, NoiseArgument noise_argument,
    TauArgument<typename Input::Acc> tau_argument, bool hard, int64_t* indices) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const RowNoise noise(noise_argument, place.row);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto input = logits.row(place);
  const auto output = sample.row(place);
  unsigned char* states = RowShared{memory, plan}.template states<Acc>(1, 0);

  const auto load = [&](uint32_t chunk, Acc (&x)[1][kChunk]) { input.load(chunk, x[0], kMinusInfinity<Acc>); };
  if (hard || tau.zero) {
    Best<Acc> best;
    read_row<Input, 1>(place, load, [&](uint32_t chunk, Acc (&x)[1][kChunk]) {
      noise.add_gumbel(chunk, x[0]);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) best.add(x[0][i], chunk * kChunk + i);
    });
    best = reduce_row(plan, place, best, states, [](auto& a, const auto& b) { a.merge(b); });
    if (indices != nullptr) {
      if (place.lane == 0 && place.chunks) {
        indices[place.row] = best.poisoned ? kNan : best.index == kNoColumn ? kNone : int64_t{best.index};
      }
      if (sample.data == nullptr) return;
    }
    const bool poisoned = best.poisoned || tau.invalid();
    fill_row(place, output, [&](uint32_t column) {
      return poisoned ? kNaN<Acc> : column == best.index ? Acc(1) : Acc(0);
    });
    return;
  }

  Online<Acc, false> online;
  const typename Input::Cache cache[1] = {{memory, 0, plan, place}};
  read_row<Input, 1>(plan, place, cache, load, [&](uint32_t chunk, Acc (&x)[1][kChunk]) {
    noise.add_gumbel(chunk, x[0]);
    online.add(x[0], x[0], tau.scale);
  });
  online = reduce_row(plan, place, online, states, [&](auto& a, const auto& b) { a.merge(b, tau.scale); });
  const Acc inverse_total = online.inverse_total();
  write_row(
      plan, place, output, cache,
      [&](uint32_t chunk, Acc (&x)[1][kChunk]) {
        load(chunk, x);
        noise.add_gumbel(chunk, x[0]);
      },
      [&](const Acc (&p)[1]) { return fast_exp2(exponent(p[0], online.top, tau.scale)) * inverse_total; });
}

// Gradients from the relaxed sample.
template <class Input, class Output>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<typename Input::Acc>) gumbel_softmax_bwd_kernel(
    RowPlan plan, Input grad, Input sample, Output dlogits, TauArgument<typename Input::Acc> tau_argument) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto grad_row = grad.row(place), sample_row = sample.row(place);
  const auto output = dlogits.row(place);
  if (tau.zero) return fill_row(place, output, [](uint32_t) { return Acc(0); });
  const typename Input::Cache cache[2] = {{memory, 0, plan, place}, {memory, 1, plan, place}};
  unsigned char* states = RowShared{memory, plan}.template states<Acc>(2, 0);

  Mean<Acc> mean;
  const auto load = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    sample_row.load(chunk, x[0], 0);
    grad_row.load(chunk, x[1], 0);
  };
  read_row<Input, 2>(plan, place, cache, load, [&](uint32_t, const Acc (&x)[2][kChunk]) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) mean.add(x[0][i], x[1][i]);
  });
  mean = reduce_row(plan, place, mean, states, [](auto& a, const auto& b) { a.merge(b); });
  const Acc average = mean.value();
  write_row(plan, place, output, cache, load, [&](const Acc (&x)[2]) {
    return logit_gradient(x[0], x[1], average, tau.inverse);
  });
}

// The same with the relaxed sample made again, without noise where there is no key; dtau_rows may be null.
template <class Gradient, class Input>
__global__ void __launch_bounds__(kMaxThreads, 1) gumbel_softmax_recompute_bwd_kernel(
    RowPlan plan, Gradient grad, Input logits, Input dlogits, NoiseArgument noise_argument,
    TauArgument<typename Input::Acc> tau_argument, typename Input::Acc* dtau_rows) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const RowNoise noise(noise_argument, place.row);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto grad_row = grad.row(place);
  const auto input = logits.row(place);
  const auto output = dlogits.row(place);
  if (tau.zero) {
    fill_row(place, output, [](uint32_t) { return Acc(0); });
    if (dtau_rows != nullptr && place.lane == 0 && place.chunks) dtau_rows[place.row] = 0;
    return;
  }
  const typename Input::Cache cache[2] = {{memory, 0, plan, place}, {memory, 1, plan, place}};
  const RowShared shared{memory, plan};

  Online<Acc, true> online;
  const auto load = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    input.load(chunk, x[0], kMinusInfinity<Acc>);
    grad_row.load(chunk, x[1], 0);
  };
  const auto add_noise = [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    if (noise_argument.key.data != nullptr) noise.add_gumbel(chunk, x[0]);
  };
  read_row<Input, 2>(plan, place, cache, load, [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
    add_noise(chunk, x);
    online.add(x[0], x[1], tau.scale);
  });
  online = reduce_row(
      plan, place, online, shared.template states<Acc>(2, 0),
      [&](auto& a, const auto& b) { a.merge(b, tau.scale); });
  const Acc inverse_total = online.inverse_total(), dot = online.dot * inverse_total;

  const bool tau_grad = dtau_rows != nullptr;
  Acc part = 0;
  write_row(
      plan, place, output, cache,
      [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
        load(chunk, x);
        add_noise(chunk, x);
      },
      [&](const Acc (&x)[2]) {
        const Acc log2_y = exponent(x[0], online.top, tau.scale);
        const Acc y = fast_exp2(log2_y) * inverse_total;
        const Acc dlogit = logit_gradient(y, x[1], dot, tau.inverse);
        if (tau_grad) part += tau_gradient_part(dlogit, y, log2_y);
        return dlogit;
      });
  if (!tau_grad) return;
  part = reduce_row(
      plan, place, part, shared.template states<Acc>(2, 1), [](Acc& a, Acc b) { a += b; });
  if (place.lane == 0 && place.chunks) dtau_rows[place.row] = -kLn2<Acc> * part;
}

inline void gumbel_softmax_fwd(Stream stream, const GumbelSoftmaxArgs& args) {
  with_row_kernel(args.rows, 0, 1, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    launch(
        kernel.plan(args.hard ? 0 : 1), stream, gumbel_softmax_fwd_kernel<typename Kernel::Narrow, typename Kernel::Wide>,
        kernel.narrow(0), kernel.wide(1), args.noise, tau_argument<typename Kernel::Acc>(args.tau), args.hard,
        args.indices);
  });
}

inline void gumbel_softmax_bwd(Stream stream, const GumbelSoftmaxBackwardArgs& args) {
  with_row_kernel(args.rows, 2, 1, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    launch(
        kernel.plan(2), stream, gumbel_softmax_bwd_kernel<typename Kernel::Wide, typename Kernel::Narrow>,
        kernel.wide(0), kernel.wide(1), kernel.narrow(2), tau_argument<typename Kernel::Acc>(args.tau));
  });
}

inline void gumbel_softmax_recompute_bwd(Stream stream, const GumbelSoftmaxRecomputeArgs& args) {
  with_row_kernel(args.rows, 1, 0, [&](const auto& kernel) {
    using Kernel = std::decay_t<decltype(kernel)>;
    using Acc = typename Kernel::Acc;
    launch(
        kernel.plan(2), stream, gumbel_softmax_recompute_bwd_kernel<typename Kernel::Wide, typename Kernel::Narrow>,
        kernel.wide(0), kernel.narrow(1), kernel.narrow(2), args.noise, tau_argument<Acc>(args.tau),
        static_cast<Acc*>(args.dtau_rows));
  });
}

}  // namespace dvae
