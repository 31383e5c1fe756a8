// The CUDA kernels of Gumbel-softmax, and the choice among them; nothing here needs torch, so that the host shim can
// run it all. Every kernel reads its rows once where they fit in shared memory: a first pass draws the noise and
// reduces, a second one writes. What does not fit is read, and its noise drawn, again.
#pragma once

#include "cuda/arguments.cuh"
#include "common/online.h"
#include "gumbel_softmax/formulas.h"

namespace dvae {

// The sample: relaxed, or one-hot where `hard` or tau is zero. A hard sample's index, as gumbel_argmax gives it, goes to
// `indices` unless that is null; then the sample's data may be null.
template <class Input, class Output>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<typename Input::Acc>) gumbel_softmax_fwd_kernel(
    RowPlan plan, Input logits, Output sample, NoiseArgument noise_argument,
    TauArgument<typename Input::Acc> tau_argument, bool hard, int64_t* indices) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk, kBatch = Input::kBatch;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const RowNoise noise(noise_argument, place.row);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto input = logits.row(place);
  const auto output = sample.row(place);
  unsigned char* states = RowShared{memory, plan}.template states<Acc>(1, 0);

  // calls consume(chunk, values of logits + G) for the thread's chunks
  const auto draw = [&](const auto& consume) {
    for (uint32_t first = place.lane; first < place.chunks; first += kBatch * place.lanes) {
      Acc x[kBatch][kChunk];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const uint32_t chunk = first + b * place.lanes;
        if (chunk < place.chunks) input.load(chunk, x[b], kMinusInfinity<Acc>);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const uint32_t chunk = first + b * place.lanes;
        if (chunk >= place.chunks) break;
        noise.add_gumbel(chunk, x[b]);
        consume(chunk, x[b]);
      }
    }
  };

  if (hard || tau.zero) {
    Best<Acc> best;
    draw([&](uint32_t chunk, const Acc (&x)[kChunk]) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) best.add(x[i], chunk * kChunk + i);
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
  draw([&](uint32_t chunk, const Acc (&x)[kChunk]) {
    online.add(x, x, tau.scale);
    if (chunk < plan.cached / kChunk) cache[0].put(chunk, x);
  });
  online = reduce_row(plan, place, online, states, [&](auto& a, const auto& b) { a.merge(b, tau.scale); });
  const Acc inverse_total = online.inverse_total();
  write_row(
      plan, place, output, cache,
      [&](uint32_t chunk, Acc (&x)[1][kChunk]) {
        input.load(chunk, x[0], kMinusInfinity<Acc>);
        noise.add_gumbel(chunk, x[0]);
      },
      [&](const Acc (&p)[1]) { return fast_exp2(exponent(p[0], online.top, tau.scale)) * inverse_total; });
}

// Gradients from the relaxed sample.
template <class Input, class Output>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks<typename Input::Acc>) gumbel_softmax_bwd_kernel(
    RowPlan plan, Input grad, Input sample, Output dlogits, TauArgument<typename Input::Acc> tau_argument) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk, kBatch = Input::kBatch;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const Temperature<Acc> tau = tau_argument.temperature();
  const auto grad_row = grad.row(place), sample_row = sample.row(place);
  const auto output = dlogits.row(place);
  if (tau.zero) return fill_row(place, output, [](uint32_t) { return Acc(0); });
  const typename Input::Cache cache[2] = {{memory, 0, plan, place}, {memory, 1, plan, place}};
  unsigned char* states = RowShared{memory, plan}.template states<Acc>(2, 0);

  Mean<Acc> mean;
  for (uint32_t first = place.lane; first < place.chunks; first += kBatch * place.lanes) {
    Acc y[kBatch][kChunk], g[kBatch][kChunk];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk >= place.chunks) break;
      sample_row.load(chunk, y[b], 0);
      grad_row.load(chunk, g[b], 0);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk >= place.chunks) break;
#pragma unroll
      for (int i = 0; i < kChunk; ++i) mean.add(y[b][i], g[b][i]);
      if (chunk < plan.cached / kChunk) {
        cache[0].put(chunk, y[b]);
        cache[1].put(chunk, g[b]);
      }
    }
  }
  mean = reduce_row(plan, place, mean, states, [](auto& a, const auto& b) { a.merge(b); });
  const Acc average = mean.value();
  write_row(
      plan, place, output, cache,
      [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
        sample_row.load(chunk, x[0], 0);
        grad_row.load(chunk, x[1], 0);
      },
      [&](const Acc (&x)[2]) { return logit_gradient(x[0], x[1], average, tau.inverse); });
}

// The same with the relaxed sample made again, without noise where there is no key; dtau_rows may be null.
template <class Gradient, class Input>
__global__ void __launch_bounds__(kMaxThreads, 1) gumbel_softmax_recompute_bwd_kernel(
    RowPlan plan, Gradient grad, Input logits, Input dlogits, NoiseArgument noise_argument,
    TauArgument<typename Input::Acc> tau_argument, typename Input::Acc* dtau_rows) {
  using Acc = typename Input::Acc;
  constexpr int kChunk = Input::kChunk, kBatch = Input::kBatch;
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
  for (uint32_t first = place.lane; first < place.chunks; first += kBatch * place.lanes) {
    Acc x[kBatch][kChunk], g[kBatch][kChunk];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk >= place.chunks) break;
      input.load(chunk, x[b], kMinusInfinity<Acc>);
      grad_row.load(chunk, g[b], 0);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk >= place.chunks) break;
      if (noise_argument.key != nullptr) noise.add_gumbel(chunk, x[b]);
      online.add(x[b], g[b], tau.scale);
      if (chunk < plan.cached / kChunk) {
        cache[0].put(chunk, x[b]);
        cache[1].put(chunk, g[b]);
      }
    }
  }
  online = reduce_row(
      plan, place, online, shared.template states<Acc>(2, 0),
      [&](auto& a, const auto& b) { a.merge(b, tau.scale); });
  const Acc inverse_total = online.inverse_total(), dot = online.dot * inverse_total;

  const bool tau_grad = dtau_rows != nullptr;
  Acc part = 0;
  write_row(
      plan, place, output, cache,
      [&](uint32_t chunk, Acc (&x)[2][kChunk]) {
        input.load(chunk, x[0], kMinusInfinity<Acc>);
        grad_row.load(chunk, x[1], 0);
        if (noise_argument.key != nullptr) noise.add_gumbel(chunk, x[0]);
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

// tensors: logits, sample (null data for the index alone); indices of a hard sample, or null
inline void gumbel_softmax_fwd(
    const RowCall& call, const RowLayout<2>& any_layout, const Buffer (&tensors)[2], bool hard,
    int64_t* indices = nullptr) {
  const RowLayout<2> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_types(chunk, tensors[0].type, tensors[1].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch(
        call.plan<Acc>(layout, chunk, hard ? 0 : 1), call.stream, gumbel_softmax_fwd_kernel<Logits, Sample>,
        Logits(tensors[0], strides[0]), Sample(tensors[1], strides[1]), call.noise, call.tau_argument<Acc>(), hard,
        indices);
  });
}

// tensors: grad, sample, dlogits
inline void gumbel_softmax_bwd(
    const RowCall& call, const RowLayout<3>& any_layout, const Buffer (&tensors)[3]) {
  const RowLayout<3> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_types(chunk, tensors[2].type, tensors[1].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch(
        call.plan<Acc>(layout, chunk, 2), call.stream, gumbel_softmax_bwd_kernel<Sample, Logits>,
        Sample(tensors[0], strides[0]), Sample(tensors[1], strides[1]), Logits(tensors[2], strides[2]),
        call.tau_argument<Acc>());
  });
}

// tensors: grad, logits, dlogits; dtau_rows in the compute type, or null
inline void gumbel_softmax_recompute_bwd(
    const RowCall& call, const RowLayout<3>& any_layout, const Buffer (&tensors)[3], void* dtau_rows) {
  const RowLayout<3> layout = simplified(any_layout);
  const auto& strides = layout.strides;
  const int chunk = vector_chunk(layout, tensors);
  with_tensor_types(chunk, tensors[1].type, tensors[0].type, [&](auto types) {
    using Logits = typename decltype(types)::Narrow;
    using Sample = typename decltype(types)::Wide;
    using Acc = typename Logits::Acc;
    launch(
        call.plan<Acc>(layout, chunk, 2), call.stream, gumbel_softmax_recompute_bwd_kernel<Sample, Logits>,
        Sample(tensors[0], strides[0]), Logits(tensors[1], strides[1]), Logits(tensors[2], strides[2]), call.noise,
        call.tau_argument<Acc>(), static_cast<Acc*>(dtau_rows));
  });
}

}  // namespace dvae
