// The CUDA kernels of the smoothing transformations and their densities, and the choice among them; nothing here needs
// torch, so that the host shim can run it all. Every tensor is read or written once. Each kind and compute type has a
// kernel of its own; storage types, the sources of the noise and of beta and the gradients wanted are branches that all
// threads take alike.
#pragma once

#include <string_view>

#include "common/scalar_math.h"
#include "cuda/elements.cuh"
#include "smoothing/arguments.h"

namespace dvae {

#include "smoothing/formulas.h"

// One number in device memory or, if `data` is null, here; or one per element.
template <class Acc>
struct BetaArgument {
  const Acc* data;
  Acc value;
  bool each;

  explicit BetaArgument(const SmoothingBeta& beta)
      : data(static_cast<const Acc*>(beta.elements.data ? beta.elements.data : beta.one.data)),
        value(static_cast<Acc>(beta.one.value)),
        each(beta.elements.data != nullptr) {}
};

// The kind with its beta: constructed once if beta is one number.
template <class Kind, class Acc>
class KindArgument {
 public:
  __device__ explicit KindArgument(const BetaArgument<Acc>& beta)
      : each_(beta.each ? beta.data : nullptr),
        one_(valid(beta.data != nullptr && !beta.each ? *beta.data : beta.value)),
        shared_(Functions<Acc>(), one_) {}

  // Calls use(i, the kind, its beta) for the elements of a chunk; the beta is NaN if it is invalid. One beta
  // per element is loaded one at a time.
  template <int kChunk, class Use>
  __device__ void for_each(const ElementChunk& chunk, const Use& use) const {
    Acc betas[kChunk] = {};
    const bool each = kChunk == 1 && each_ != nullptr;
    if constexpr (kChunk == 1) {
      if (each) load_words(each_, chunk, betas);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Acc beta = each ? valid(betas[i]) : one_;
      use(i, each ? Kind(Functions<Acc>(), beta) : shared_, beta);
    }
  }

 private:
  __device__ static Acc valid(Acc beta) {
    return select((beta > 0) & (beta <= kLargest<Acc>), nearest_beta(beta), kNaN<Acc>);
  }

  const Acc* each_;
  Acc one_;
  Kind shared_;
};

// x, or NaN if one of the others is.
template <class Acc>
__device__ Acc nan_of(Acc a, Acc b, Acc c, Acc x) {
  return select((a == a) & (b == b) & (c == c), x, kNaN<Acc>);
}

// Uniform noise from a key, or given.
template <class Acc>
struct UniformArgument {
  KeyWords key;
  const Acc* given;

  UniformArgument(const KeyWords& key, const Buffer& noise) : key(key), given(static_cast<const Acc*>(noise.data)) {}
};

template <class Acc>
class Uniform {
 public:
  __device__ explicit Uniform(const UniformArgument<Acc>& argument) : given_(argument.given) {
    const NoiseKey key = argument.key.read();
    seed_ = key.key;
    offset_ = key.offset;
  }

  // eps and its distance from 1; NaN where eps is outside [0, 1].
  template <int kChunk>
  __device__ void get(const ElementChunk& chunk, Acc (&eps)[kChunk], Acc (&rest)[kChunk]) const {
    if (given_ != nullptr) {
      load_words(given_, chunk, eps);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        eps[i] = select((eps[i] >= 0) & (eps[i] <= 1), eps[i], kNaN<Acc>);
        rest[i] = 1 - eps[i];
      }
    } else {
      const Philox4x32 words = element_words(seed_, offset_, chunk.group);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const uint32_t bits = kChunk == 1 ? pick(words, chunk.word) : words.word[i];
        eps[i] = uniform_from_bits<Acc>(bits);
        rest[i] = uniform_from_bits<Acc>(~bits);
      }
    }
  }

 private:
  __device__ static uint32_t pick(const Philox4x32& words, int i) {
    const uint32_t even = i & 2 ? words.word[2] : words.word[0], odd = i & 2 ? words.word[3] : words.word[1];
    return i & 1 ? odd : even;
  }

  const Acc* given_;
  uint64_t seed_ = 0;
  uint32_t offset_ = 0;
};

// Calls run(chunk, values) for the thread's chunks of four elements or one, with values [N][elements] that
// load(chunk, values) read a turn before.
template <int N, class Acc, class Load, class Run>
__device__ void for_smoothing_chunks(
    const ElementPlan& plan, const BetaArgument<Acc>& beta, const Load& load, const Run& run) {
  if constexpr (sizeof(Acc) == 4) {
    if (by_fours<Acc>(plan) && !beta.each) return for_loaded_chunks<4, N, Acc>(plan, load, run);
  }
  for_loaded_chunks<1, N, Acc>(plan, load, run);
}

// How many elements the values of a chunk are.
template <class Values>
constexpr int kWidth = std::extent_v<std::remove_reference_t<Values>, 1>;

template <class Kind, class Tensor>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Tensor::Acc>) smoothing_fwd_kernel(
    ElementPlan plan, Tensor logits, Tensor zeta, UniformArgument<typename Tensor::Acc> noise_argument,
    BetaArgument<typename Tensor::Acc> beta_argument) {
  using Acc = typename Tensor::Acc;
  const Uniform<Acc> noise(noise_argument);
  const KindArgument<Kind, Acc> kind(beta_argument);
  const auto load = [&](const ElementChunk& chunk, auto& x) { logits.load(chunk, x[0]); };
  for_smoothing_chunks<1>(plan, beta_argument, load, [&](const ElementChunk& chunk, auto& x) {
    constexpr int kChunk = kWidth<decltype(x)>;
    Acc eps[kChunk], rest[kChunk];
    noise.get(chunk, eps, rest);
    kind.template for_each<kChunk>(chunk, [&](int i, const Kind& kind, Acc beta) {
      const NoisyBit<Acc> bit(x[0][i], eps[i], rest[i]);
      x[0][i] = nan_of(x[0][i], eps[i], beta, kind.transform(Functions<Acc>(), bit).zeta);
    });
    zeta.store(chunk, x[0]);
  });
}

// The gradients asked for, from the same noise. dbeta is a sum for every block, or as large as the logits.
template <class Kind, class Tensor>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Tensor::Acc>) smoothing_bwd_kernel(
    ElementPlan plan, Tensor grad, Tensor logits, Tensor dlogits, typename Tensor::Acc* dbeta,
    typename Tensor::Acc* dnoise, UniformArgument<typename Tensor::Acc> noise_argument,
    BetaArgument<typename Tensor::Acc> beta_argument) {
  using Acc = typename Tensor::Acc;
  const Uniform<Acc> noise(noise_argument);
  const KindArgument<Kind, Acc> kind(beta_argument);
  const auto load = [&](const ElementChunk& chunk, auto& x) {
    grad.load(chunk, x[0]);
    logits.load(chunk, x[1]);
  };
  Acc partial = 0;
  for_smoothing_chunks<2>(plan, beta_argument, load, [&](const ElementChunk& chunk, auto& x) {
    constexpr int kChunk = kWidth<decltype(x)>;
    Acc eps[kChunk], rest[kChunk], dbetas[kChunk];
    noise.get(chunk, eps, rest);
    kind.template for_each<kChunk>(chunk, [&](int i, const Kind& kind, Acc beta) {
      const Smoothed<Acc> smoothed = kind.transform(Functions<Acc>(), NoisyBit<Acc>(x[1][i], eps[i], rest[i]));
      const Acc g = nan_of(x[1][i], eps[i], beta, x[0][i]);
      x[1][i] = g * smoothed.dlogit;
      eps[i] = g * smoothed.deps;
      dbetas[i] = g * smoothed.dbeta;
      partial += dbetas[i];
    });
    dlogits.store(chunk, x[1]);
    if (dnoise != nullptr) store_words(dnoise, chunk, eps);
    if (kChunk == 1 && dbeta != nullptr && beta_argument.each) store_words(dbeta, chunk, dbetas);
  });
  if (dbeta != nullptr && !beta_argument.each) write_block_sum(partial, dbeta);
}

template <class Kind, class Tensor>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Tensor::Acc>)
    smoothing_log_prob_fwd_kernel(
        ElementPlan plan, Tensor zeta, Tensor logits, typename Tensor::Acc* log_prob,
        BetaArgument<typename Tensor::Acc> beta_argument) {
  using Acc = typename Tensor::Acc;
  const KindArgument<Kind, Acc> kind(beta_argument);
  const auto load = [&](const ElementChunk& chunk, auto& x) {
    zeta.load(chunk, x[0]);
    logits.load(chunk, x[1]);
  };
  for_smoothing_chunks<2>(plan, beta_argument, load, [&](const ElementChunk& chunk, auto& x) {
    kind.template for_each<kWidth<decltype(x)>>(chunk, [&](int i, const Kind& kind, Acc beta) {
      const LogDensity<Acc> density = kind.log_density(Functions<Acc>(), x[0][i], x[1][i]);
      x[0][i] = nan_of(x[0][i], x[1][i], beta, density.log);
    });
    store_words(log_prob, chunk, x[0]);
  });
}

template <class Kind, class Tensor>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Tensor::Acc>)
    smoothing_log_prob_bwd_kernel(
        ElementPlan plan, const typename Tensor::Acc* grad, Tensor zeta, Tensor logits, Tensor dzeta, Tensor dlogits,
        typename Tensor::Acc* dbeta, BetaArgument<typename Tensor::Acc> beta_argument) {
  using Acc = typename Tensor::Acc;
  const KindArgument<Kind, Acc> kind(beta_argument);
  const auto load = [&](const ElementChunk& chunk, auto& x) {
    load_words(grad, chunk, x[0]);
    zeta.load(chunk, x[1]);
    logits.load(chunk, x[2]);
  };
  Acc partial = 0;
  for_smoothing_chunks<3>(plan, beta_argument, load, [&](const ElementChunk& chunk, auto& x) {
    constexpr int kChunk = kWidth<decltype(x)>;
    Acc dbetas[kChunk];
    kind.template for_each<kChunk>(chunk, [&](int i, const Kind& kind, Acc beta) {
      const LogDensity<Acc> density = kind.log_density(Functions<Acc>(), x[1][i], x[2][i]);
      const Acc g = nan_of(x[1][i], x[2][i], beta, x[0][i]);
      x[1][i] = g * density.dzeta;
      x[2][i] = g * density.dlogit;
      dbetas[i] = g * density.dbeta;
      partial += dbetas[i];
    });
    dzeta.store(chunk, x[1]);
    dlogits.store(chunk, x[2]);
    if (kChunk == 1 && dbeta != nullptr && beta_argument.each) store_words(dbeta, chunk, dbetas);
  });
  if (dbeta != nullptr && !beta_argument.each) write_block_sum(partial, dbeta);
}

// Calls call(a null pointer to the kind, TypeOf the tensors in its compute type).
template <class Call>
void with_smoothing_types(std::string_view kind, Storage storage, const Call& call) {
  const auto with = [&](auto scalar) {
    using Acc = decltype(scalar);
    with_kind<Acc>(kind, [&](auto* of_kind) { call(of_kind, TypeOf<StoredElements<Acc>>()); });
  };
  storage == Storage::float64 ? with(double()) : with(float());
}

inline void smoothing_fwd(Stream stream, const SmoothingArgs& args) {
  with_smoothing_types(args.kind, args.logits.type, [&](auto* kind, auto type) {
    using Kind = std::remove_pointer_t<decltype(kind)>;
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.logits, args.zeta, args.noise}), stream, smoothing_fwd_kernel<Kind, Tensor>,
        Tensor(args.logits), Tensor(args.zeta), UniformArgument<Acc>(args.key, args.noise),
        BetaArgument<Acc>(args.beta));
  });
}

inline void smoothing_bwd(Stream stream, const SmoothingBackwardArgs& args) {
  with_smoothing_types(args.kind, args.logits.type, [&](auto* kind, auto type) {
    using Kind = std::remove_pointer_t<decltype(kind)>;
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.grad, args.logits, args.dlogits, args.noise, args.dnoise}), stream,
        smoothing_bwd_kernel<Kind, Tensor>, Tensor(args.grad), Tensor(args.logits), Tensor(args.dlogits),
        static_cast<Acc*>(args.dbeta.data), static_cast<Acc*>(args.dnoise.data),
        UniformArgument<Acc>(args.key, args.noise), BetaArgument<Acc>(args.beta));
  });
}

inline void smoothing_log_prob_fwd(Stream stream, const SmoothingLogProbArgs& args) {
  with_smoothing_types(args.kind, args.logits.type, [&](auto* kind, auto type) {
    using Kind = std::remove_pointer_t<decltype(kind)>;
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.zeta, args.logits, args.log_prob}), stream,
        smoothing_log_prob_fwd_kernel<Kind, Tensor>, Tensor(args.zeta), Tensor(args.logits),
        static_cast<Acc*>(args.log_prob.data), BetaArgument<Acc>(args.beta));
  });
}

inline void smoothing_log_prob_bwd(Stream stream, const SmoothingLogProbBackwardArgs& args) {
  with_smoothing_types(args.kind, args.logits.type, [&](auto* kind, auto type) {
    using Kind = std::remove_pointer_t<decltype(kind)>;
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        plan_elements(args.blocks, {args.grad, args.zeta, args.logits, args.dzeta, args.dlogits}), stream,
        smoothing_log_prob_bwd_kernel<Kind, Tensor>, static_cast<const Acc*>(args.grad.data), Tensor(args.zeta),
        Tensor(args.logits), Tensor(args.dzeta), Tensor(args.dlogits), static_cast<Acc*>(args.dbeta.data),
        BetaArgument<Acc>(args.beta));
  });
}

}  // namespace dvae
