// The Gumbel-softmax kernels, written once over the SIMD layer. Included once per target by for_each_target.h.
//
// A row is worked on in chunks whose integers and exponents stay in the first-level cache. The perturbed logit is
// p = l - ln(E'), E' the exponential noise over ln 2 (a constant of the row cancels). Each chunk has its own maximum,
// so that one sweep over the noise gives the weights 2^z, z = (p - top) log2(e) / tau, and their sums; the chunks are
// brought to a common scale when the row is written.

#include "common/row_io.h"

constexpr int kChunk = kRowChunk;

// Sums over a chunk, or a row: of the weights w, and with an incoming gradient g of w g; where the gradient to tau is
// needed also of w z and w g z, z the exponent of the weight.
template <class S>
struct Sums {
  S weight = 0, grad = 0, exponent = 0, grad_exponent = 0;
};

enum class Want { weights, grad, grad_and_tau };

template <Want want, class F>
void add(F w, F z, F g, Sums<F>* sums) {
  sums->weight = sums->weight + w;
  if constexpr (want != Want::weights) {
    const F wg = w * g;
    sums->grad = sums->grad + wg;
    if constexpr (want == Want::grad_and_tau) {
      z = select(w == F(0), F(0), z);  // a masked entry's exponent is -inf
      sums->exponent = fma(w, z, sums->exponent);
      sums->grad_exponent = fma(wg, z, sums->grad_exponent);
    }
  }
}

template <class F>
F sum_of(const Sums<F> (&sums)[4], F Sums<F>::*member) {
  return (sums[0].*member + sums[1].*member) + (sums[2].*member + sums[3].*member);
}

template <class F>
class RowWeights {
 public:
  using Scalar = typename F::Scalar;

  RowWeights(int64_t categories, NoiseKey key, double inverse_tau)
      : categories_(categories),
        chunks_((categories + kChunk - 1) / kChunk),
        noise_(key.key, key.offset),
        unit_tau_(inverse_tau == 1),
        steepness_(static_cast<Scalar>(
            std::min(inverse_tau * kLog2e<double>, double{std::numeric_limits<Scalar>::max()}))),
        weights_(allocate<Scalar>(chunks_ * kChunk)),
        sums_(chunks_),
        tops_(chunks_),
        scales_(chunks_) {}

  // The weights of a row and their scales; weight * scale is the sample. Gives the wanted sums over the sample.
  template <Want want>
  Sums<double> compute(const Scalar* x, const Scalar* g, uint32_t row) {
    noise_.set_row(row);
    // At tau = 1 the weight is e^l / E: no second logarithm. The gradient to tau needs the exponent anyway, and a
    // single category must come out as exactly 1.
    constexpr bool may_be_unit = want != Want::grad_and_tau;
    const bool unit = may_be_unit && unit_tau_ && categories_ > 1;
    for_chunks([&](int64_t c) { unit ? weigh<want, may_be_unit>(c, x, g) : weigh<want, false>(c, x, g); });
    return combine<want>();
  }

  // Visits the row's weights vector by vector: visit(column, weight, scale of its chunk).
  template <class Visit>
  void for_each(const Visit& visit) const {
    for_chunks([&](int64_t c) {
      const F scale(scales_[c]);
      const int64_t first = c * kChunk, end = first + size_of_chunk(c);
      for (int64_t j = first; j < end; j += F::lanes) visit(j, F::load(weights_.get() + j), scale);
    });
  }

  static constexpr int64_t kNone = -1, kNan = -2;

  // The category of the largest perturbed logit, the lowest of equals; kNone where all are -inf, kNan in a row with
  // NaN or +inf.
  int64_t argmax(const Scalar* x, uint32_t row) {
    noise_.set_row(row);
    bests_.assign(chunks_, Best());
    for_ranges([&](int64_t begin, int64_t end) {
      Best best;  // carried on, so that later chunks have a high mark to pass
      for (int64_t c = begin; c < end && best.index != kNan; ++c) best = find_better(c, x, best);
      bests_[begin] = best;
    });
    Best best;
    for (const Best& other : bests_) {
      if (other.index == kNan) return kNan;
      if (other.p > best.p) best = other;
    }
    return best.index;
  }

 private:
  struct Best {
    Scalar p = -std::numeric_limits<Scalar>::infinity();
    int64_t index = kNone;
  };

  // A wide row is shared out to threads where rows are too few to go round; inside a parallel region this is one range.
  template <class Run>
  void for_ranges(const Run& run) const {
    constexpr int64_t grain = kRowRange / kChunk;
    if (chunks_ < 2 * grain) {
      run(0, chunks_);
    } else {
      torch::stable::parallel_for(0, chunks_, grain, [&](int64_t begin, int64_t end) {
        run(begin, end);
        fence_streams();  // of the thread that wrote
      });
    }
  }
  template <class Run>
  void for_chunks(const Run& run) const {
    for_ranges([&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) run(c);
    });
  }

  int size_of_chunk(int64_t c) const {
    return static_cast<int>(std::min<int64_t>(kChunk, categories_ - c * kChunk));
  }

  // Loops take four vectors at a time, each with sums of its own: shorter chains, faster and more exact.
  static constexpr int kStep = 4 * F::lanes;

  // A chunk of a tensor's row: the run itself where it is whole steps, else a copy filled up with `fill`.
  struct Run {
    alignas(64) Scalar copy[kChunk];
    const Scalar* data;
    int size;

    Run(const Scalar* run, int n, Scalar fill) : data(run), size((n + kStep - 1) / kStep * kStep) {
      for (int j = 0; j < n; j += 64 / sizeof(Scalar)) prefetch(run + j);
      if (n == size) return;
      std::memcpy(copy, run, n * sizeof(Scalar));
      std::fill(copy + n, copy + size, fill);
      data = copy;
    }
  };

  F perturbed(const Functions<F>& f, const Scalar* x, const uint32_t* bits) const {
    return fma_exact(f.log2(f.exponential(bits)), F(-kLn2<Scalar>), F::load(x));
  }

  // The better of `best` and the chunk's largest. Perturbed logits are computed only in the steps whose bound passes
  // the best so far: few in a long row.
  Best find_better(int64_t c, const Scalar* row, Best best) {
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    const Run x(row + c * kChunk, size_of_chunk(c), -infinity);
    alignas(64) uint32_t bits[kChunk];
    alignas(64) Scalar p[kStep];
    noise_.fill(static_cast<uint32_t>(c * kChunk / 4), bits, x.size);
    const Functions<F> f;
    // rounding of large logits may lift a perturbed logit above its bound, relatively
    const auto mark = [&] { return F(best.p - std::abs(best.p) * Scalar(1e-6)); };
    F to_pass = mark();
    auto unordered = is_nan(F(0));
    for (int first = 0; first < x.size; first += kStep) {
      F bound(-infinity);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        const F xj = F::load(x.data + j);
        unordered = unordered | is_nan(xj);
        bound = max(bound, xj + f.minus_log_bound(bits + j));
      }
      if (!(bound > to_pass).any()) continue;
      F top(-infinity);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        const F pj = perturbed(f, x.data + j, bits + j);
        pj.store(p + i * F::lanes);
        top = max(top, pj);
      }
      const Scalar step_top = reduce_max(top);
      if (step_top > best.p) {
        best = {step_top, c * kChunk + first + (std::find(p, p + kStep, step_top) - p)};
        to_pass = mark();
      }
    }
    if (unordered.any() || best.p == infinity) best.index = kNan;
    return best;
  }

  template <Want want, bool unit>
  void weigh(int64_t c, const Scalar* row, const Scalar* grad) {
    const int n = size_of_chunk(c);
    const Run x(row + c * kChunk, n, -std::numeric_limits<Scalar>::infinity());
    alignas(64) uint32_t bits[kChunk];
    alignas(64) Scalar work[kChunk];  // 1 / E' at tau = 1, else the perturbed logits
    noise_.fill(static_cast<uint32_t>(c * kChunk / 4), bits, x.size);
    const Functions<F> f;
    F top(-std::numeric_limits<Scalar>::infinity());
    for (int first = 0; first < x.size; first += kStep) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        if constexpr (unit) {
          reciprocal(f.exponential(bits + j)).store(work + j);
          top = max(top, F::load(x.data + j));
        } else {
          const F p = perturbed(f, x.data + j, bits + j);
          p.store(work + j);
          top = max(top, p);
        }
      }
    }
    Scalar chunk_top = reduce_max(top);  // of the logits alone at tau = 1
    tops_[c] = chunk_top;
    if (chunk_top == -std::numeric_limits<Scalar>::infinity()) chunk_top = 0;  // weights of 0, not of NaN

    Scalar* weights = weights_.get() + c * kChunk;
    if constexpr (want == Want::weights) {
      sums_[c] = weigh_out<want, unit>(x.size, x.data, nullptr, work, chunk_top, weights);
    } else {
      const Run g(grad + c * kChunk, n, 0);
      sums_[c] = weigh_out<want, unit>(x.size, x.data, g.data, work, chunk_top, weights);
    }
  }

  template <Want want, bool unit>
  Sums<Scalar> weigh_out(int n, const Scalar* x, const Scalar* g, const Scalar* work, Scalar top, Scalar* weights) {
    const F steepness(steepness_), shift(top);
    Sums<F> sums[4];
    for (int first = 0; first < n; first += kStep) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        F z(0), w;
        if constexpr (unit) {
          w = exp2((F::load(x + j) - shift) * steepness) * F::load(work + j);
        } else {
          z = (F::load(work + j) - shift) * steepness;
          w = exp2(z);
        }
        w.store(weights + j);
        add<want>(w, z, g == nullptr ? w : F::load(g + j), &sums[i]);
      }
    }
    const auto total = [&](F Sums<F>::*member) { return reduce_add(sum_of(sums, member)); };
    return {total(&Sums<F>::weight), total(&Sums<F>::grad), total(&Sums<F>::exponent), total(&Sums<F>::grad_exponent)};
  }

  // Brings the chunks to the scale of the row's largest. A row of only -inf gets scales of 0, one with NaN or +inf
  // scales of NaN.
  template <Want want>
  Sums<double> combine() {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    double top = -infinity;
    for (const Scalar t : tops_) top = std::max(top, double{t});
    Sums<double> row;
    for (int64_t c = 0; c < chunks_; ++c) {
      const double lag = (double{tops_[c]} - top) * steepness_;
      const double factor = tops_[c] == -infinity ? (std::isnan(sums_[c].weight) ? NAN : 0) : std::exp2(lag);
      scales_[c] = static_cast<Scalar>(factor);
      row.weight += factor * sums_[c].weight;
      if (want != Want::weights) row.grad += factor * sums_[c].grad;
      if (want == Want::grad_and_tau && factor != 0) {
        row.exponent += factor * (sums_[c].exponent + lag * sums_[c].weight);
        row.grad_exponent += factor * (sums_[c].grad_exponent + lag * sums_[c].grad);
      }
    }
    const double inverse = row.weight == 0 ? 0 : 1 / row.weight;
    for (Scalar& scale : scales_) scale = static_cast<Scalar>(scale * inverse);
    return {row.weight * inverse, row.grad * inverse, row.exponent * inverse, row.grad_exponent * inverse};
  }

  int64_t categories_, chunks_;
  RowNoise noise_;
  bool unit_tau_;
  Scalar steepness_;
  Allocation<Scalar> weights_;
  // by chunk
  std::vector<Sums<Scalar>> sums_;
  std::vector<Scalar> tops_, scales_;
  std::vector<Best> bests_;
};

template <class F>
void sample_tiles(const SampleArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.categories;
  RowWeights<F> weights(columns, args.noise, args.inverse_tau);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> sample(args.sample, args.sample_strides, columns, args.tiles.tile_rows);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.row_offset + row + i);
      const RowWriter<F> writer(sample.row(i), columns, args.stream && sample.in_place());
      if (args.hard) {
        const int64_t index = weights.argmax(logits.row(i), number);
        const F rest(index == RowWeights<F>::kNan ? std::numeric_limits<Scalar>::quiet_NaN() : 0);
        Scalar one[F::lanes] = {};
        if (index >= 0) one[index % F::lanes] = 1;
        const int64_t one_at = index >= 0 ? index - index % F::lanes : -1;
        for (int64_t j = 0; j < columns; j += F::lanes) writer.put(j, j == one_at ? F::load(one) : rest);
      } else {
        weights.template compute<Want::weights>(logits.row(i), nullptr, number);
        weights.for_each([&](int64_t j, F w, F scale) { writer.put(j, w * scale); });
      }
    }
    sample.close(rows);
  });
  if (args.stream) fence_streams();
}

template <class F>
void recompute_backward_tiles(const RecomputeBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.categories;
  RowWeights<F> weights(columns, args.noise, args.inverse_tau);
  RowTensor<F> grad(args.grad, args.grad_strides, columns, args.tiles.tile_rows);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dlogits(args.dlogits, args.dlogits_strides, columns, args.tiles.tile_rows);
  auto* dtau_rows = static_cast<Scalar*>(args.dtau_rows.data);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    grad.open(outer, inner, rows, true);
    logits.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.row_offset + row + i);
      const Scalar* g = grad.row(i);
      Sums<double> sums;
      if (dtau_rows != nullptr) {
        sums = weights.template compute<Want::grad_and_tau>(logits.row(i), g, number);
        // -sum(dlogits * log y) with log y = z ln 2 up to a constant of the row
        dtau_rows[row + i] = static_cast<Scalar>(
            -(sums.grad_exponent - sums.grad * sums.exponent) * kLn2<double> * args.inverse_tau);
      } else {
        sums = weights.template compute<Want::grad>(logits.row(i), g, number);
      }
      const F mean(static_cast<Scalar>(sums.grad)), inverse_tau(static_cast<Scalar>(args.inverse_tau));
      const RowWriter<F> writer(dlogits.row(i), columns, args.stream && dlogits.in_place());
      weights.for_each([&](int64_t j, F w, F scale) {
        writer.put(j, w * scale * (load_upto<F>(g, j, columns) - mean) * inverse_tau);
      });
    }
    dlogits.close(rows);
  });
  if (args.stream) fence_streams();
}

template <class F>
void backward_tiles(const BackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.categories;
  RowTensor<F> grad(args.grad, args.grad_strides, columns, args.tiles.tile_rows);
  RowTensor<F> sample(args.sample, args.sample_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dlogits(args.dlogits, args.dlogits_strides, columns, args.tiles.tile_rows);
  const F inverse_tau(static_cast<Scalar>(args.inverse_tau));
  for_tiles(args.tiles, begin, end, [&](int64_t, int64_t outer, int64_t inner, int rows) {
    grad.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const Scalar *g = grad.row(i), *y = sample.row(i);
      // A sample rounded to half precision does not sum to one; the mean under it must be a mean all the same, or the
      // gradient of a nearly one-hot row is lost in the difference.
      const auto yg = [&](int64_t j) { return load_upto<F>(y, j, columns) * load_upto<F>(g, j, columns); };
      const double total = sum_by_runs<F>(columns, [&](int64_t j) { return load_upto<F>(y, j, columns); });
      const double dot = total == 0 ? 0 : sum_by_runs<F>(columns, yg) / total;
      const F mean(static_cast<Scalar>(dot));
      const RowWriter<F> writer(dlogits.row(i), columns, args.stream && dlogits.in_place());
      for (int64_t j = 0; j < columns; j += F::lanes) {
        writer.put(j, load_upto<F>(y, j, columns) * (load_upto<F>(g, j, columns) - mean) * inverse_tau);
      }
    }
    dlogits.close(rows);
  });
  if (args.stream) fence_streams();
}

#include "gumbel_softmax/cpu_columns.h"

void gumbel_softmax_sample(const SampleArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return sample_tiles<F64>(args, begin, end);
  args.tiles.columns ? sample_columns(args, begin, end) : sample_tiles<F32>(args, begin, end);
}

void gumbel_softmax_backward(const BackwardArgs& args, int64_t begin, int64_t end) {
  if (args.sample.type == Storage::float64) return backward_tiles<F64>(args, begin, end);
  args.tiles.columns ? backward_columns(args, begin, end) : backward_tiles<F32>(args, begin, end);
}

void gumbel_softmax_recompute_backward(const RecomputeBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return recompute_backward_tiles<F64>(args, begin, end);
  args.tiles.columns ? recompute_backward_columns(args, begin, end) : recompute_backward_tiles<F32>(args, begin, end);
}
