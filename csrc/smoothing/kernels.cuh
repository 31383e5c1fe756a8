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

  // One beta per element is loaded one at a time.
  template <int kChunk>
  __device__ void load(const ElementChunk& chunk, Acc (&betas)[kChunk]) const {
    if constexpr (kChunk == 1) {
      if (each_ != nullptr) load_words(each_, chunk, betas);
    }
  }
  // The element's own beta if it was loaded, else the one; NaN if it is invalid.
  template <int kChunk>
  __device__ Acc beta(Acc loaded) const {
    return kChunk == 1 && each_ != nullptr ? valid(loaded) : one_;
  }
  template <int kChunk>
  __device__ Kind at(Acc beta) const {
    return kChunk == 1 && each_ != nullptr ? Kind(Functions<Acc>(), beta) : shared_;
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

// Calls run(width) with the elements of a chunk: four or one.
template <class Acc, class Run>
__device__ void in_chunks(const ElementPlan& plan, const BetaArgument<Acc>& beta, const Run& run) {
  if constexpr (sizeof(Acc) == 4) {
    if (by_fours<Acc>(plan) && !beta.each) return run(std::integral_constant<int, 4>());
  }
  run(std::integral_constant<int, 1>());
}

template <class Kind, class Tensor>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Tensor::Acc>) smoothing_fwd_kernel(
    ElementPlan plan, Tensor logits, Tensor zeta, UniformArgument<typename Tensor::Acc> noise_argument,
    BetaArgument<typename Tensor::Acc> beta_argument) {
  using Acc = typename Tensor::Acc;
  const Uniform<Acc> noise(noise_argument);
  const KindArgument<Kind, Acc> kind(beta_argument);
  in_chunks(plan, beta_argument, [&](auto width) {
    constexpr int kChunk = decltype(width)::value;
    struct Inputs {
      Acc logit[kChunk];
    };
    const auto load = [&](const ElementChunk& chunk, Inputs& in) { logits.load(chunk, in.logit); };
    for_loaded_chunks<kChunk, Inputs>(plan, load, [&](const ElementChunk& chunk, Inputs& in) {
      Acc eps[kChunk], rest[kChunk], betas[kChunk] = {};
      noise.get(chunk, eps, rest);
      kind.load(chunk, betas);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const Acc beta = kind.template beta<kChunk>(betas[i]);
        const NoisyBit<Acc> bit(in.logit[i], eps[i], rest[i]);
        const Smoothed<Acc> smoothed = kind.template at<kChunk>(beta).transform(Functions<Acc>(), bit);
        in.logit[i] = nan_of(in.logit[i], eps[i], beta, smoothed.zeta);
      }
      zeta.store(chunk, in.logit);
    });
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
  Acc partial = 0;
  in_chunks(plan, beta_argument, [&](auto width) {
    constexpr int kChunk = decltype(width)::value;
    struct Inputs {
      Acc grad[kChunk], logit[kChunk];
    };
    const auto load = [&](const ElementChunk& chunk, Inputs& in) {
      grad.load(chunk, in.grad);
      logits.load(chunk, in.logit);
    };
    for_loaded_chunks<kChunk, Inputs>(plan, load, [&](const ElementChunk& chunk, Inputs& in) {
      Acc eps[kChunk], rest[kChunk], betas[kChunk] = {};
      noise.get(chunk, eps, rest);
      kind.load(chunk, betas);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const Acc beta = kind.template beta<kChunk>(betas[i]);
        const NoisyBit<Acc> bit(in.logit[i], eps[i], rest[i]);
        const Smoothed<Acc> smoothed = kind.template at<kChunk>(beta).transform(Functions<Acc>(), bit);
        const Acc g = nan_of(in.logit[i], eps[i], beta, in.grad[i]);
        in.logit[i] = g * smoothed.dlogit;
        eps[i] = g * smoothed.deps;
        betas[i] = g * smoothed.dbeta;
        partial += betas[i];
      }
      dlogits.store(chunk, in.logit);
      if (dnoise != nullptr) store_words(dnoise, chunk, eps);
      if (kChunk == 1 && dbeta != nullptr && beta_argument.each) store_words(dbeta, chunk, betas);
    });
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
  in_chunks(plan, beta_argument, [&](auto width) {
    constexpr int kChunk = decltype(width)::value;
    struct Inputs {
      Acc zeta[kChunk], logit[kChunk];
    };
    const auto load = [&](const ElementChunk& chunk, Inputs& in) {
      zeta.load(chunk, in.zeta);
      logits.load(chunk, in.logit);
    };
    for_loaded_chunks<kChunk, Inputs>(plan, load, [&](const ElementChunk& chunk, Inputs& in) {
      Acc betas[kChunk] = {};
      kind.load(chunk, betas);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const Acc beta = kind.template beta<kChunk>(betas[i]), at = in.zeta[i], logit = in.logit[i];
        const LogDensity<Acc> density = kind.template at<kChunk>(beta).log_density(Functions<Acc>(), at, logit);
        in.zeta[i] = nan_of(at, logit, beta, density.log);
      }
      store_words(log_prob, chunk, in.zeta);
    });
  });
}

template <class Kind, class Tensor>
__global__ void __launch_bounds__(kElementThreads, kElementMinBlocks<typename Tensor::Acc>)
    smoothing_log_prob_bwd_kernel(
        ElementPlan plan, const typename Tensor::Acc* grad, Tensor zeta, Tensor logits, Tensor dzeta, Tensor dlogits,
        typename Tensor::Acc* dbeta, BetaArgument<typename Tensor::Acc> beta_argument) {
  using Acc = typename Tensor::Acc;
  const KindArgument<Kind, Acc> kind(beta_argument);
  Acc partial = 0;
  in_chunks(plan, beta_argument, [&](auto width) {
    constexpr int kChunk = decltype(width)::value;
    struct Inputs {
      Acc grad[kChunk], zeta[kChunk], logit[kChunk];
    };
    const auto load = [&](const ElementChunk& chunk, Inputs& in) {
      load_words(grad, chunk, in.grad);
      zeta.load(chunk, in.zeta);
      logits.load(chunk, in.logit);
    };
    for_loaded_chunks<kChunk, Inputs>(plan, load, [&](const ElementChunk& chunk, Inputs& in) {
      Acc betas[kChunk] = {};
      kind.load(chunk, betas);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const Acc beta = kind.template beta<kChunk>(betas[i]), at = in.zeta[i], logit = in.logit[i];
        const LogDensity<Acc> density = kind.template at<kChunk>(beta).log_density(Functions<Acc>(), at, logit);
        const Acc g = nan_of(at, logit, beta, in.grad[i]);
        in.zeta[i] = g * density.dzeta;
        in.logit[i] = g * density.dlogit;
        betas[i] = g * density.dbeta;
        partial += betas[i];
      }
      dzeta.store(chunk, in.zeta);
      dlogits.store(chunk, in.logit);
      if (kChunk == 1 && dbeta != nullptr && beta_argument.each) store_words(dbeta, chunk, betas);
    });
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
