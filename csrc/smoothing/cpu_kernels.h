// The smoothing kernels, written once over the SIMD layer. Included once per target by foreach_target.h.
//
// Each loop is compiled for every kind, so storage types are left to BlockReader and BlockWriter. A sample and its
// gradient to the logits have a fast loop for the common case: noise from the key, and one beta for which no formula
// needs the slow path. All other cases share one loop.

#ifndef DVAE_TARGET  // for an editor
#include "smoothing/arguments.h"
#include "simd/editor.h"
#endif

#include "smoothing/formulas.h"

// A kind with its one beta, or with the betas of a block's elements.
template <class F, class Kind>
class KindOfElements {
 public:
  using Scalar = typename F::Scalar;

  KindOfElements(const Functions<F>& f, const SmoothingBeta& beta)
      : one_(f, nearest_beta(F(static_cast<Scalar>(beta.one.value)))), given_(beta.elements) {}

  bool several() const { return given_.data != nullptr; }

  void open(int64_t first, int elements) {
    if (!several()) return;
    const Scalar* given = static_cast<const Scalar*>(given_.data) + first;
    for_vectors<F>(0, elements, [&](int64_t j, auto count) {
      const F beta = load_elements<F>(given + j, count);
      const auto invalid = (F(0) > beta) | (beta == F(0)) | (beta > F(kLargest<Scalar>));
      select(invalid, F(kNaN<Scalar>), nearest_beta(beta)).store(betas_ + j);
    });
    F(1).store(betas_ + elements);
  }
  Kind at(const Functions<F>& f, int64_t j) const { return several() ? Kind(f, F::load(betas_ + j)) : one_; }
  // 0, or NaN where beta is invalid: added to the logit, it carries NaN to every output.
  F zero(int64_t j) const { return several() ? F::load(betas_ + j) - F::load(betas_ + j) : F(0); }

 private:
  Kind one_;
  Buffer given_;
  alignas(64) Scalar betas_[kElementBlock + 2 * F::lanes];  // whole vectors may read past the last beta
};

// A block's noise, from the key or a tensor.
template <class F>
class NoiseOfElements {
 public:
  using Scalar = typename F::Scalar;

  NoiseOfElements(const ElementBlocks& blocks, KeyWords key, const Buffer& given)
      : bits_(blocks, key.read()), given_(given) {}

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

// The kind with functions that never take the slow path.
template <class Kind>
struct FastKind;
template <template <class, class> class Kind, class F, class Math>
struct FastKind<Kind<F, Math>> {
  using type = Kind<F, FastFunctions>;
};

template <class Kind>
bool is_fast(const SmoothingBeta& beta) {
  return beta.elements.data == nullptr && beta.one.value >= 1 && beta.one.value <= Kind::largest_fast_exponent;
}

template <class Kind>
void smooth_fast(const SmoothingArgs& args, int64_t begin, int64_t end) {
  const FastFunctions f;
  const Kind kind(f, F32(static_cast<float>(args.beta.one.value)));
  BlockNoise noise(args.blocks, args.key.read());
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
void smooth_bwd_fast(const SmoothingBackwardArgs& args, int64_t begin, int64_t end) {
  const FastFunctions f;
  const Kind kind(f, F32(static_cast<float>(args.beta.one.value)));
  BlockNoise noise(args.blocks, args.key.read());
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

// Elements that are summed in one run; the runs' sums are then summed. A block has 512 for each lane of the baseline.
constexpr int64_t kRun = 256;

template <class F, class Kind, bool all>
void smooth_bwd(const SmoothingBackwardArgs& args, int64_t begin, int64_t end) {
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

// NaN where either argument is, else 0.
template <class F>
F nan_of(F a, F b) {
  return select(either_nan(a, b), F(kNaN<typename F::Scalar>), F(0));
}

template <class F, class Kind>
void log_density_fwd(const SmoothingLogProbArgs& args, int64_t begin, int64_t end) {
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
void log_density_bwd(const SmoothingLogProbBackwardArgs& args, int64_t begin, int64_t end) {
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

// The entries.

void smoothing_fwd(const SmoothingArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    using F = decltype(f);
    using Kind = std::remove_pointer_t<decltype(kind)>;
    if constexpr (F::lanes > 1) {
      if (args.noise.data == nullptr && is_fast<Kind>(args.beta)) {
        return smooth_fast<typename FastKind<Kind>::type>(args, begin, end);
      }
    }
    smooth<F, Kind>(args, begin, end);
  });
}

void smoothing_bwd(const SmoothingBackwardArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    using F = decltype(f);
    using Kind = std::remove_pointer_t<decltype(kind)>;
    if (args.dbeta.data != nullptr || args.dnoise.data != nullptr) {
      return smooth_bwd<F, Kind, true>(args, begin, end);
    }
    if constexpr (F::lanes > 1) {
      if (args.noise.data == nullptr && is_fast<Kind>(args.beta)) {
        return smooth_bwd_fast<typename FastKind<Kind>::type>(args, begin, end);
      }
    }
    smooth_bwd<F, Kind, false>(args, begin, end);
  });
}

void smoothing_log_prob_fwd(const SmoothingLogProbArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    log_density_fwd<decltype(f), std::remove_pointer_t<decltype(kind)>>(args, begin, end);
  });
}

void smoothing_log_prob_bwd(const SmoothingLogProbBackwardArgs& args, int64_t begin, int64_t end) {
  with_kind_and_vector(args, [&](auto f, auto* kind) {
    log_density_bwd<decltype(f), std::remove_pointer_t<decltype(kind)>>(args, begin, end);
  });
}
