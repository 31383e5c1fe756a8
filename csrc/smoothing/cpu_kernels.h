// The smoothing kernels, written once over the SIMD layer. Included once per target by foreach_target.h.
//
// Each loop is compiled for every kind, so storage types are left to BlockReader and BlockWriter. A sample and its
// gradient to the logits have a quick loop for what is common: the key's noise, and one beta for which no formula needs
// a way around a loss of accuracy. Everything else shares one loop.

#ifndef DVAE_TARGET  // for an editor
#include "smoothing/cpu.h"
#include "simd/editor.h"
#endif

#include "smoothing/formulas.h"

// A kind with its one beta, or with the betas of a block's elements.
template <class F, class Kind>
class KindOfElements {
 public:
  using Scalar = typename F::Scalar;

  KindOfElements(const Functions<F>& f, const SmoothingBeta& beta)
      : one_(f, nearest_beta(F(static_cast<Scalar>(beta.value)))), given_(beta.elements) {}

  bool several() const { return given_.data != nullptr; }

  void open(int64_t first, int elements) {
    if (!several()) return;
    const Scalar* given = static_cast<const Scalar*>(given_.data) + first;
    for_vectors<F>(0, elements, [&](int64_t j, auto count) {
      const F beta = load_elements<F>(given + j, count);
      const auto none = (F(0) > beta) | (beta == F(0)) | (beta > F(kLargest<Scalar>));
      select(none, F(kNaN<Scalar>), nearest_beta(beta)).store(betas_ + j);
    });
    F(1).store(betas_ + elements);
  }
  Kind at(const Functions<F>& f, int64_t j) const { return several() ? Kind(f, F::load(betas_ + j)) : one_; }
  // Added to a logit, makes NaN of all that belongs to a beta that is none.
  F zero(int64_t j) const { return several() ? F::load(betas_ + j) - F::load(betas_ + j) : F(0); }

 private:
  Kind one_;
  Buffer given_;
  alignas(64) Scalar betas_[kElementBlock + 2 * F::lanes];  // behind the last stand some that whole vectors may read
};

// A block's noise, from the key or a tensor.
template <class F>
class NoiseOfElements {
 public:
  using Scalar = typename F::Scalar;

  NoiseOfElements(const ElementBlocks& blocks, NoiseKey key, const Buffer& given) : bits_(blocks, key), given_(given) {}

  void open(int64_t block, int64_t first, int elements, int lacking) {
    if (given_.data == nullptr) {
      const uint32_t* words = bits_.draw(block, elements, lacking);
      for (int j = 0; j < elements; j += F::lanes) {
        const Uniform<F> u(words + j);
        u.eps.store(eps_ + j);
        u.rest.store(rest_ + j);
      }
    } else {
      const Scalar* given = static_cast<const Scalar*>(given_.data) + first;
      for_vectors<F>(0, elements, [&](int64_t j, auto count) {
        F eps = load_elements<F>(given + j, count);
        eps = select((eps > F(1)) | (F(0) > eps), F(kNaN<Scalar>), eps);
        eps.store(eps_ + j);
        (F(1) - eps).store(rest_ + j);
      });
    }
    F(Scalar(0.5)).store(eps_ + elements);
    F(Scalar(0.5)).store(rest_ + elements);
  }
  NoisyBit<F> bit(F logit, int64_t j) const {
    const F eps = F::load(eps_ + j);
    return {logit + (eps - eps), eps, F::load(rest_ + j)};  // NaN where the noise is
  }

 private:
  BlockNoise bits_;
  Buffer given_;
  alignas(64) Scalar eps_[kElementBlock + 2 * F::lanes];
  alignas(64) Scalar rest_[kElementBlock + 2 * F::lanes];
};

// The kind with functions that look for no way around.
template <class Kind>
struct ModerateKind;
template <template <class, class> class Kind, class F, class Math>
struct ModerateKind<Kind<F, Math>> {
  using type = Kind<F, ModerateFunctions>;
};

template <class Kind>
bool is_moderate(const SmoothingBeta& beta) {
  return beta.elements.data == nullptr && beta.value >= 1 && beta.value <= Kind::highest_moderate;
}

template <class Kind>
void smooth_quickly(const SmoothingArgs& args, int64_t begin, int64_t end) {
  const ModerateFunctions f;
  const Kind kind(f, F32(static_cast<float>(args.beta.value)));
  BlockNoise noise(args.blocks, args.key);
  BlockReader<F32> logits(args.logits);
  BlockWriter<F32> zeta(args.zeta);
  for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int lacking) {
    const float* l = logits.open(first, elements);
    const uint32_t* bits = noise.draw(block, elements, lacking, l);
    zeta.put(first, elements, [=](int64_t j, auto count) {
      const Uniform<F32> u(bits + j);
      return kind.transform(f, NoisyBit<F32>(load_elements<F32>(l + j, count), u.eps, u.rest)).zeta;
    });
  });
}

template <class Kind>
void smooth_backward_quickly(const SmoothingBackwardArgs& args, int64_t begin, int64_t end) {
  const ModerateFunctions f;
  const Kind kind(f, F32(static_cast<float>(args.beta.value)));
  BlockNoise noise(args.blocks, args.key);
  BlockReader<F32> grad(args.grad), logits(args.logits);
  BlockWriter<F32> dlogits(args.dlogits);
  for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int lacking) {
    const float *g = grad.open(first, elements), *l = logits.open(first, elements);
    const uint32_t* bits = noise.draw(block, elements, lacking, l, g);
    dlogits.put(first, elements, [=](int64_t j, auto count) {
      const Uniform<F32> u(bits + j);
      const NoisyBit<F32> bit(load_elements<F32>(l + j, count), u.eps, u.rest);
      return load_elements<F32>(g + j, count) * kind.transform(f, bit).dlogit;
    });
  });
}

template <class F, class Kind>
void smooth(const SmoothingArgs& args, int64_t begin, int64_t end) {
  const Functions<F> f;
  KindOfElements<F, Kind> kinds(f, args.beta);
  BlockReader<F> logits(args.logits);
  BlockWriter<F> zeta(args.zeta);
  NoiseOfElements<F> noise(args.blocks, args.key, args.noise);
  for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int lacking) {
    const auto* l = logits.open(first, elements);
    kinds.open(first, elements);
    noise.open(block, first, elements, lacking);
    zeta.put_singly(first, elements, [&](int64_t j, auto count) {
      const F logit = load_elements<F>(l + j, count) + kinds.zero(j);
      return kinds.at(f, j).transform(f, noise.bit(logit, j)).zeta;
    });
  });
}

// Elements that are added in one row, before their sum is: a block has 512 for each lane of the baseline.
constexpr int64_t kRun = 256;

template <class F, class Kind, bool all>
void smooth_backward(const SmoothingBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const Functions<F> f;
  KindOfElements<F, Kind> kinds(f, args.beta);
  BlockReader<F> grad(args.grad), logits(args.logits);
  BlockWriter<F> dlogits(args.dlogits);
  Scalar* const dbeta = all ? static_cast<Scalar*>(args.dbeta.data) : nullptr;
  Scalar* const dnoise = all ? static_cast<Scalar*>(args.dnoise.data) : nullptr;
  NoiseOfElements<F> noise(args.blocks, args.key, args.noise);
  for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int lacking) {
    const auto *g = grad.open(first, elements), *l = logits.open(first, elements);
    kinds.open(first, elements);
    noise.open(block, first, elements, lacking);
    Scalar* const dbetas = dbeta != nullptr && kinds.several() ? dbeta + first : nullptr;
    F sum(0), run(0);
    dlogits.put_singly(first, elements, [&](int64_t j, auto count) {
      const F cotangent = load_elements<F>(g + j, count), logit = load_elements<F>(l + j, count) + kinds.zero(j);
      const Smoothed<F> at = kinds.at(f, j).transform(f, noise.bit(logit, j));
      if (dbetas != nullptr) store_elements<F>(cotangent * at.dbeta, dbetas + j, count, false);
      if (dnoise != nullptr) store_elements<F>(cotangent * at.deps, dnoise + first + j, count, false);
      if constexpr (all) {
        if (j % kRun == 0) sum = sum + run, run = F(0);
        run = fma(cotangent, at.dbeta, run);
      }
      return cotangent * at.dlogit;
    });
    if (dbeta != nullptr && dbetas == nullptr) dbeta[block] = reduce_add(sum + run);
  });
}

// NaN where either is, else 0.
template <class F>
F nan_of(F a, F b) {
  return select(either_nan(a, b), F(kNaN<typename F::Scalar>), F(0));
}

template <class F, class Kind>
void smoothed_log_prob(const SmoothingLogProbArgs& args, int64_t begin, int64_t end) {
  const Functions<F> f;
  KindOfElements<F, Kind> kinds(f, args.beta);
  BlockReader<F> zeta(args.zeta), logits(args.logits);
  BlockWriter<F> log_prob(args.log_prob);
  for_blocks(args.blocks, begin, end, [&](int64_t, int64_t first, int elements, int) {
    const auto *z = zeta.open(first, elements), *l = logits.open(first, elements);
    kinds.open(first, elements);
    log_prob.put_singly(first, elements, [&](int64_t j, auto count) {
      const F at = load_elements<F>(z + j, count), logit = load_elements<F>(l + j, count) + kinds.zero(j);
      return kinds.at(f, j).log_density(f, at, logit).log + nan_of(at, logit);
    });
  });
}

template <class F, class Kind>
void smoothed_log_prob_backward(const SmoothingLogProbBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const Functions<F> f;
  KindOfElements<F, Kind> kinds(f, args.beta);
  BlockReader<F> grad(args.grad), zeta(args.zeta), logits(args.logits);
  BlockWriter<F> dzeta(args.dzeta), dlogits(args.dlogits);
  auto* dbeta = static_cast<Scalar*>(args.dbeta.data);
  for_blocks(args.blocks, begin, end, [&](int64_t block, int64_t first, int elements, int) {
    const auto *g = grad.open(first, elements), *z = zeta.open(first, elements), *l = logits.open(first, elements);
    Scalar* const dzetas = dzeta.open(first);
    Scalar* const dbetas = dbeta != nullptr && kinds.several() ? dbeta + first : nullptr;
    kinds.open(first, elements);
    F sum(0), run(0);
    dlogits.put_singly(first, elements, [&](int64_t j, auto count) {
      const F at = load_elements<F>(z + j, count), logit = load_elements<F>(l + j, count) + kinds.zero(j);
      const F cotangent = load_elements<F>(g + j, count) + nan_of(at, logit);
      const LogDensity<F> density = kinds.at(f, j).log_density(f, at, logit);
      store_elements<F>(cotangent * density.dzeta, dzetas + j, count, false);
      if (dbetas != nullptr) store_elements<F>(cotangent * density.dbeta, dbetas + j, count, false);
      if (j % kRun == 0) sum = sum + run, run = F(0);
      run = fma(cotangent, density.dbeta, run);
      return cotangent * density.dlogit;
    });
    dzeta.close(first, elements);
    if (dbeta != nullptr && dbetas == nullptr) dbeta[block] = reduce_add(sum + run);
  });
}

// Calls call(F(), kind) with the kind and the vectors for the dtype. Double precision is the same on every target, and
// compiled for one.
template <class Args, class Call>
void with_kind_and_vector(const Args& args, const Call& call) {
#if DVAE_SIMD_BASELINE
  if (args.logits.type == Storage::float64) {
    with_kind<F64>(args.kind, [&](auto* kind) { call(F64(), kind); });
    return;
  }
#endif
  with_kind<F32>(args.kind, [&](auto* kind) { call(F32(), kind); });
}

void smoothing(const SmoothingArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    using F = decltype(f);
    using Kind = std::remove_pointer_t<decltype(kind)>;
    if constexpr (F::lanes > 1) {
      if (args.noise.data == nullptr && is_moderate<Kind>(args.beta)) {
        return smooth_quickly<typename ModerateKind<Kind>::type>(args, begin, end);
      }
    }
    smooth<F, Kind>(args, begin, end);
  });
}

void smoothing_backward(const SmoothingBackwardArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    using F = decltype(f);
    using Kind = std::remove_pointer_t<decltype(kind)>;
    if (args.dbeta.data != nullptr || args.dnoise.data != nullptr) {
      return smooth_backward<F, Kind, true>(args, begin, end);
    }
    if constexpr (F::lanes > 1) {
      if (args.noise.data == nullptr && is_moderate<Kind>(args.beta)) {
        return smooth_backward_quickly<typename ModerateKind<Kind>::type>(args, begin, end);
      }
    }
    smooth_backward<F, Kind, false>(args, begin, end);
  });
}

void smoothing_log_prob(const SmoothingLogProbArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    smoothed_log_prob<decltype(f), std::remove_pointer_t<decltype(kind)>>(args, begin, end);
  });
}

void smoothing_log_prob_backward(const SmoothingLogProbBackwardArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    smoothed_log_prob_backward<decltype(f), std::remove_pointer_t<decltype(kind)>>(args, begin, end);
  });
}
