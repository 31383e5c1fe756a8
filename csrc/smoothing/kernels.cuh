// The CUDA kernels of the smoothing transformations and their densities, and the choice among them; nothing here needs
// torch, so that the host shim can run it all. Every tensor is read or written once. A kernel is made for each kind
// and compute type; storage types, the source of the noise, that of beta and the gradients wanted are branches that
// all threads take alike.
#pragma once

#include <string_view>

#include "cuda/elements.cuh"
#include "common/scalar_math.h"

namespace dvae {

#include "smoothing/formulas.h"

// One number in device memory or, where `data` is null, here; or one for every element.
template <class Acc>
struct BetaArgument {
  const Acc* data;
  Acc value;
  bool each;
};

// The kind with its beta, made once where that is one number.
template <class Kind, class Acc>
class KindArgument {
 public:
  __device__ explicit KindArgument(const BetaArgument<Acc>& beta)
      : each_(beta.each ? beta.data : nullptr),
        one_(valid(beta.data != nullptr && !beta.each ? *beta.data : beta.value)),
        shared_(Functions<Acc>(), one_) {}

  // Where there is one beta for each element, they come one at a time.
  template <int kChunk>
  __device__ void load(const ElementChunk& chunk, Acc (&betas)[kChunk]) const {
    if constexpr (kChunk == 1) {
      if (each_ != nullptr) load_words(each_, chunk, betas);
    }
  }
  // The element's own, where it was loaded; NaN where it is no sharpness.
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

// x, or NaN where an argument is.
template <class Acc>
__device__ Acc nan_of(Acc a, Acc b, Acc c, Acc x) {
  return select((a == a) & (b == b) & (c == c), x, kNaN<Acc>);
}

// Uniform noise from a key, or given.
template <class Acc>
struct UniformArgument {
  NoiseArgument key;
  const Acc* given;
};

template <class Acc>
class Uniform {
 public:
  __device__ explicit Uniform(const UniformArgument<Acc>& argument) : given_(argument.given) {
    if (argument.key.key == nullptr) return;
    seed_ = static_cast<uint64_t>(argument.key.key[0]);
    offset_ = static_cast<uint32_t>(argument.key.key[argument.key.key_stride]);
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
  Acc part = 0;
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
        part += betas[i];
      }
      dlogits.store(chunk, in.logit);
      if (dnoise != nullptr) store_words(dnoise, chunk, eps);
      if (kChunk == 1 && dbeta != nullptr && beta_argument.each) store_words(dbeta, chunk, betas);
    });
  });
  if (dbeta != nullptr && !beta_argument.each) write_block_sum(part, dbeta);
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
  Acc part = 0;
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
        part += betas[i];
      }
      dzeta.store(chunk, in.zeta);
      dlogits.store(chunk, in.logit);
      if (kChunk == 1 && dbeta != nullptr && beta_argument.each) store_words(dbeta, chunk, betas);
    });
  });
  if (dbeta != nullptr && !beta_argument.each) write_block_sum(part, dbeta);
}

// The host's side of a call. `noise`, `beta`, `dbeta` and `dnoise` hold values of the compute type, or are null.
struct SmoothingCall {
  std::string_view kind;
  NoiseArgument key{};
  const void* noise = nullptr;
  const void* beta = nullptr;
  double beta_value = 0;
  bool beta_each = false;
  void* dbeta = nullptr;
  void* dnoise = nullptr;
  Stream stream{};

  template <class Acc>
  UniformArgument<Acc> noise_argument() const {
    return {key, static_cast<const Acc*>(noise)};
  }
  template <class Acc>
  BetaArgument<Acc> beta_argument() const {
    return {static_cast<const Acc*>(beta), static_cast<Acc>(beta_value), beta_each};
  }

  // Calls run(Kind's type, StoredElements of its compute type); false where there is no such kind.
  template <class Run>
  bool dispatch(Storage storage, const Run& run) const {
    return storage == Storage::float64 ? dispatch_as<double>(run) : dispatch_as<float>(run);
  }

  template <int N>
  ElementPlan plan(const ElementBlocks& blocks, const Buffer (&tensors)[N]) const {
    ElementPlan plan = plan_elements(blocks, tensors);
    const void* const others[] = {noise, beta_each ? beta : nullptr, beta_each ? dbeta : nullptr, dnoise};
    for (const void* other : others) plan.vector = plan.vector && reinterpret_cast<uintptr_t>(other) % 16 == 0;
    return plan;
  }

 private:
  template <class Acc, class Run>
  bool dispatch_as(const Run& run) const {
    return with_kind<Acc>(kind, [&](auto* of_kind) {
      run(TypeOf<std::remove_pointer_t<decltype(of_kind)>>(), TypeOf<StoredElements<Acc>>());
    });
  }
};

// tensors: logits, zeta
inline bool smoothing_fwd(const SmoothingCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[2]) {
  return call.dispatch(tensors[0].type, [&](auto kind, auto type) {
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        call.plan(blocks, tensors), call.stream, smoothing_fwd_kernel<typename decltype(kind)::type, Tensor>,
        Tensor(tensors[0]), Tensor(tensors[1]), call.noise_argument<Acc>(), call.beta_argument<Acc>());
  });
}

// tensors: grad, logits, dlogits
inline bool smoothing_bwd(const SmoothingCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[3]) {
  return call.dispatch(tensors[1].type, [&](auto kind, auto type) {
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        call.plan(blocks, tensors), call.stream, smoothing_bwd_kernel<typename decltype(kind)::type, Tensor>,
        Tensor(tensors[0]), Tensor(tensors[1]), Tensor(tensors[2]), static_cast<Acc*>(call.dbeta),
        static_cast<Acc*>(call.dnoise), call.noise_argument<Acc>(), call.beta_argument<Acc>());
  });
}

// tensors: zeta, logits, log density in the compute type
inline bool smoothing_log_prob_fwd(
    const SmoothingCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[3]) {
  return call.dispatch(tensors[1].type, [&](auto kind, auto type) {
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        call.plan(blocks, tensors), call.stream, smoothing_log_prob_fwd_kernel<typename decltype(kind)::type, Tensor>,
        Tensor(tensors[0]), Tensor(tensors[1]), static_cast<Acc*>(tensors[2].data), call.beta_argument<Acc>());
  });
}

// tensors: grad in the compute type, zeta, logits, dzeta, dlogits
inline bool smoothing_log_prob_bwd(
    const SmoothingCall& call, const ElementBlocks& blocks, const Buffer (&tensors)[5]) {
  return call.dispatch(tensors[2].type, [&](auto kind, auto type) {
    using Tensor = typename decltype(type)::type;
    using Acc = typename Tensor::Acc;
    launch_elements(
        call.plan(blocks, tensors), call.stream, smoothing_log_prob_bwd_kernel<typename decltype(kind)::type, Tensor>,
        static_cast<const Acc*>(tensors[0].data), Tensor(tensors[1]), Tensor(tensors[2]), Tensor(tensors[3]),
        Tensor(tensors[4]), static_cast<Acc*>(call.dbeta), call.beta_argument<Acc>());
  });
}

}  // namespace dvae
