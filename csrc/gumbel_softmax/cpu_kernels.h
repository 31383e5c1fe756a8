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
        sums_(chunks_),
        tops_(chunks_) {
    for (Row& row : rows_) {
      row.weights.reset(allocate<Scalar>(chunks_ * kChunk + kPadding));
      row.scales.resize(chunks_);
    }
  }

  // Whether threads may share a row.
  bool shares_rows() const { return chunks_ >= 2 * kGrain; }

  // The weights of a row and their scales; weight * scale is the sample. Gives the wanted sums over the sample. Calls
  // meanwhile(begin, end) for all columns, piece by piece, where the processor would wait; until this returns, for_each
  // visits the row before.
  template <Want want, class Meanwhile>
  Sums<double> compute(const Scalar* x, const Scalar* g, uint32_t row, const Meanwhile& meanwhile) {
    noise_.set_row(row);
    // At tau = 1 the weight is e^l / E: no second logarithm. The gradient to tau needs the exponent anyway, and a
    // single category must come out as exactly 1.
    constexpr bool may_be_unit = want != Want::grad_and_tau;
    const bool unit = may_be_unit && unit_tau_ && categories_ > 1;
    for_chunks([&](int64_t c) {
      unit ? weigh<want, may_be_unit>(c, x, g, meanwhile) : weigh<want, false>(c, x, g, meanwhile);
    });
    const Sums<double> sums = combine<want>();
    std::swap(rows_[0], rows_[1]);
    return sums;
  }

  // Writes finish(column, count, weight, scale) for the columns [begin, end) of one chunk.
  template <class Finish>
  void write(int64_t begin, int64_t end, const RowWriter<F>& to, const Finish& finish) const {
    const Scalar* weights = rows_[0].weights.get();
    const F scale(rows_[0].scales[begin / kChunk]);
    // by value: a store could change what is behind a reference
    to.put(begin, std::min(end, categories_), [=](int64_t j, auto count) {
      return finish(j, count, F::load(weights + j), scale);
    });
  }
  // For the whole row, shared out to threads.
  template <class Finish>
  void write(const RowWriter<F>& to, const Finish& finish) const {
    for_chunks([&](int64_t c) { write(c * kChunk, (c + 1) * kChunk, to, finish); });
  }

  static constexpr int64_t kNone = -1, kNan = -2;

  // The category of the largest perturbed logit, the lowest of equals; kNone where all are -inf, kNan in a row with
  // NaN or +inf. Calls meanwhile(begin, end) for all columns, as compute() does.
  template <class Meanwhile>
  int64_t argmax(const Scalar* x, uint32_t row, const Meanwhile& meanwhile) {
    noise_.set_row(row);
    bests_.assign(chunks_, Best());
    for_ranges([&](int64_t begin, int64_t end) {
      Best best;  // carried on, so that later chunks have a high mark to pass
      for (int64_t c = begin; c < end; ++c) best = find_better(c, x, best, meanwhile);
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
  static constexpr int64_t kGrain = kRowRange / kChunk;
  static constexpr int kPadding = 528;  // keeps the two rows' columns from falling on the same cache sets

  struct Best {
    Scalar p = -std::numeric_limits<Scalar>::infinity();
    int64_t index = kNone;
  };

  // A wide row is shared out to threads where rows are too few to go round; inside a parallel region this is one range.
  template <class Run>
  void for_ranges(const Run& run) const {
    if (!shares_rows()) {
      run(0, chunks_);
    } else {
      torch::stable::parallel_for(0, chunks_, kGrain, [&](int64_t begin, int64_t end) {
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

  // A chunk of a tensor's row by steps, the last of which is a copy filled up with `fill` where it is not whole.
  class Run {
   public:
    const int size;  // whole steps

    Run(const Scalar* run, int n, Scalar fill) : size((n + kStep - 1) / kStep * kStep), data_(run) {
      whole_ = n / kStep * kStep;
      if (n == whole_) return;
      std::memcpy(last_, run + whole_, (n - whole_) * sizeof(Scalar));
      std::fill(last_ + (n - whole_), last_ + kStep, fill);
    }
    const Scalar* step(int first) const { return first < whole_ ? data_ + first : last_; }

   private:
    alignas(64) Scalar last_[kStep];
    const Scalar* data_;
    int whole_;
  };

  F perturbed(const Functions<F>& f, const Scalar* x, const uint32_t* bits) const {
    return fma_exact(f.log2(f.exponential(bits)), F(-kLn2<Scalar>), F::load(x));
  }

  // The better of `best` and the chunk's largest. Perturbed logits are computed only in the steps whose bound passes
  // the best so far: few in a long row.
  template <class Meanwhile>
  Best find_better(int64_t c, const Scalar* row, Best best, const Meanwhile& meanwhile) {
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    const Run x(row + c * kChunk, size_of_chunk(c), -infinity);
    alignas(64) uint32_t bits[kChunk];
    alignas(64) Scalar bounds[kChunk / 4];  // a vector a step: the largest in each lane
    const Functions<F> f;
    F largest(-infinity);
    auto unordered = is_nan(largest);
    noise_.fill(static_cast<uint32_t>(c * kChunk / 4), bits, x.size, [&](int begin, int end) {
      for (int first = begin; first < std::min(end, x.size); first += kStep) {
        const Scalar* logits = x.step(first);
        F v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) v[i] = F::load(logits + i * F::lanes);
        unordered = unordered | either_nan(v[0], v[1]) | either_nan(v[2], v[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) v[i] = v[i] + f.minus_log_bound(bits + first + i * F::lanes);
        const F bound = max(max(v[0], v[1]), max(v[2], v[3]));
        bound.store(bounds + first / 4);
        largest = max(largest, bound);
      }
      meanwhile(c * kChunk + begin, c * kChunk + end);
    });
    if (unordered.any()) best.index = kNan;
    if (best.index == kNan) return best;

    // rounding of large logits may lift a perturbed logit above its bound, relatively
    const auto can_win = [&](F bound) { return (bound > F(best.p - std::abs(best.p) * Scalar(1e-6))).any(); };
    const auto visit = [&](int first) {
      best = better_of_step(f, x.step(first), bits + first, c * kChunk + first, best);
    };
    if (!can_win(largest)) return best;
    // the largest bound is most often the winner's: hardly any other step can then win
    const F top(reduce_max(largest));
    int likely = 0;
    while (!(F::load(bounds + likely / 4) == top).any()) likely += kStep;
    visit(likely);
    for (int first = 0; first < x.size; first += kStep) {
      if (first != likely && can_win(F::load(bounds + first / 4))) visit(first);
    }
    if (best.p == infinity) best.index = kNan;
    return best;
  }

  Best better_of_step(const Functions<F>& f, const Scalar* x, const uint32_t* bits, int64_t first, Best best) const {
    F p[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) p[i] = perturbed(f, x + i * F::lanes, bits + i * F::lanes);
    const Scalar top = reduce_max(max(max(p[0], p[1]), max(p[2], p[3])));
    if (top < best.p) return best;
    int64_t index = first;
    int i = 0;
    for (; !(p[i] == F(top)).any(); ++i) index += F::lanes;
    index += first_lane(p[i] == F(top));
    return top > best.p || index < best.index ? Best{top, index} : best;
  }

  template <Want want, bool unit, class Meanwhile>
  void weigh(int64_t c, const Scalar* row, const Scalar* grad, const Meanwhile& meanwhile) {
    const int n = size_of_chunk(c);
    const Run x(row + c * kChunk, n, -std::numeric_limits<Scalar>::infinity());
    alignas(64) uint32_t bits[kChunk];
    alignas(64) Scalar work[kChunk];  // 1 / E' at tau = 1, else the perturbed logits
    noise_.fill(static_cast<uint32_t>(c * kChunk / 4), bits, x.size, [&](int begin, int end) {
      for (int j = begin; j < end; j += 64 / sizeof(Scalar)) {
        prefetch(row + c * kChunk + j);
        if (want != Want::weights) prefetch(grad + c * kChunk + j);
      }
      meanwhile(c * kChunk + begin, c * kChunk + end);
    });
    const Functions<F> f;
    F top(-std::numeric_limits<Scalar>::infinity());
    for (int first = 0; first < x.size; first += kStep) {
      const Scalar* logits = x.step(first);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        if constexpr (unit) {
          reciprocal(f.exponential(bits + j)).store(work + j);
          top = max(top, F::load(logits + i * F::lanes));
        } else {
          const F p = perturbed(f, logits + i * F::lanes, bits + j);
          p.store(work + j);
          top = max(top, p);
        }
      }
    }
    Scalar chunk_top = reduce_max(top);  // of the logits alone at tau = 1
    tops_[c] = chunk_top;
    if (chunk_top == -std::numeric_limits<Scalar>::infinity()) chunk_top = 0;  // weights of 0, not of NaN

    Scalar* weights = rows_[1].weights.get() + c * kChunk;
    if constexpr (want == Want::weights) {
      sums_[c] = weigh_out<want, unit>(x, x, work, chunk_top, weights);
    } else {
      sums_[c] = weigh_out<want, unit>(x, Run(grad + c * kChunk, n, 0), work, chunk_top, weights);
    }
  }

  template <Want want, bool unit>
  Sums<Scalar> weigh_out(const Run& x, const Run& g, const Scalar* work, Scalar top, Scalar* weights) {
    const F steepness(steepness_), shift(top);
    Sums<F> sums[4];
    for (int first = 0; first < x.size; first += kStep) {
      const Scalar *logits = x.step(first), *grads = g.step(first);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        F z(0), w;
        if constexpr (unit) {
          w = exp2((F::load(logits + i * F::lanes) - shift) * steepness) * F::load(work + j);
        } else {
          z = (F::load(work + j) - shift) * steepness;
          w = exp2(z);
        }
        w.store(weights + j);
        add<want>(w, z, want == Want::weights ? w : F::load(grads + i * F::lanes), &sums[i]);
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
    std::vector<Scalar>& scales = rows_[1].scales;
    for (int64_t c = 0; c < chunks_; ++c) {
      const double lag = (double{tops_[c]} - top) * steepness_;
      const double factor =
          tops_[c] == -infinity ? (std::isnan(sums_[c].weight) ? NAN : 0) : lag == 0 ? 1 : std::exp2(lag);
      scales[c] = static_cast<Scalar>(factor);
      row.weight += factor * sums_[c].weight;
      if (want != Want::weights) row.grad += factor * sums_[c].grad;
      if (want == Want::grad_and_tau && factor != 0) {
        row.exponent += factor * (sums_[c].exponent + lag * sums_[c].weight);
        row.grad_exponent += factor * (sums_[c].grad_exponent + lag * sums_[c].grad);
      }
    }
    const double inverse = row.weight == 0 ? 0 : 1 / row.weight;
    for (Scalar& scale : scales) scale = static_cast<Scalar>(scale * inverse);
    return {row.weight * inverse, row.grad * inverse, row.exponent * inverse, row.grad_exponent * inverse};
  }

  int64_t categories_, chunks_;
  RowNoise noise_;
  bool unit_tau_;
  Scalar steepness_;
  struct Row {
    Allocation<Scalar> weights;
    std::vector<Scalar> scales;  // by chunk
  };
  Row rows_[2];  // the last one that is whole, and the one in work
  // by chunk
  std::vector<Sums<Scalar>> sums_;
  std::vector<Scalar> tops_;
  std::vector<Best> bests_;
};

// Writes a row from its weights while the integers of the next row are drawn, or at once where its tile has to be closed
// before that or threads share the row.
template <class F, class Finish>
class RowOutput {
 public:
  RowOutput(const RowWeights<F>& weights, bool at_once)
      : weights_(weights), at_once_(at_once || weights.shares_rows()) {}

  // The row whose weights are whole is to be written.
  void put(const RowWriter<F>& writer, const Finish& finish) {
    writer_ = writer;
    finish_ = finish;
    waits_ = true;
    if (at_once_) flush();
  }
  void flush() {
    if (waits_) weights_.write(writer_, finish_);
    waits_ = false;
  }
  // Writes the columns [begin, end) of the row that waits.
  void operator()(int64_t begin, int64_t end) const {
    if (waits_) weights_.write(begin, end, writer_, finish_);
  }

 private:
  const RowWeights<F>& weights_;
  bool at_once_, waits_ = false;
  RowWriter<F> writer_;
  Finish finish_;
};

template <class F>
struct Sample {
  template <class Count>
  F operator()(int64_t, Count, F w, F scale) const {
    return w * scale;
  }
};

template <class F>
struct LogitGradient {
  const typename F::Scalar* g;
  F mean, inverse_tau;

  template <class Count>
  F operator()(int64_t j, Count count, F w, F scale) const {
    return w * (scale * inverse_tau) * (load_lanes<F>(g + j, count) - mean);
  }
};

template <class F>
void sample_tiles(const SampleArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.categories;
  RowWeights<F> weights(columns, args.noise, args.inverse_tau);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> sample(args.sample, args.sample_strides, columns, args.tiles.tile_rows);
  RowOutput<F, Sample<F>> output(weights, !sample.in_place());
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.row_offset + row + i);
      const RowWriter<F> writer(sample.row(i), args.stream && sample.in_place());
      if (args.hard) {
        Scalar* marks = sample.row(i);
        const auto fill = [=](F value) {
          return [=](int64_t from, int64_t to) {
            writer.put(from, std::min(to, columns), [=](int64_t, auto) { return value; });
          };
        };
        const int64_t index = weights.argmax(logits.row(i), number, fill(F(0)));
        if (index >= 0) marks[index] = 1;
        if (index == RowWeights<F>::kNan) fill(F(std::numeric_limits<Scalar>::quiet_NaN()))(0, columns);
      } else {
        weights.template compute<Want::weights>(logits.row(i), nullptr, number, output);
        output.put(writer, Sample<F>());
      }
    }
    sample.close(rows);
  });
  output.flush();
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
  const F inverse_tau(static_cast<Scalar>(args.inverse_tau));
  RowOutput<F, LogitGradient<F>> output(weights, !(dlogits.in_place() && grad.in_place()));
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    grad.open(outer, inner, rows, true);
    logits.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.row_offset + row + i);
      Sums<double> sums;
      if (dtau_rows != nullptr) {
        sums = weights.template compute<Want::grad_and_tau>(logits.row(i), grad.row(i), number, output);
        // -sum(dlogits * log y) with log y = z ln 2 up to a constant of the row
        dtau_rows[row + i] = static_cast<Scalar>(
            -(sums.grad_exponent - sums.grad * sums.exponent) * kLn2<double> * args.inverse_tau);
      } else {
        sums = weights.template compute<Want::grad>(logits.row(i), grad.row(i), number, output);
      }
      output.put(
          RowWriter<F>(dlogits.row(i), args.stream && dlogits.in_place()),
          {grad.row(i), F(static_cast<Scalar>(sums.grad)), inverse_tau});
    }
    dlogits.close(rows);
  });
  output.flush();
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
      const auto [total, dot] = sums_by_runs<F, 2>(columns, [=](int64_t j, auto count, F* sums) {
        const F yj = load_lanes<F>(y + j, count);
        sums[0] = sums[0] + yj;
        sums[1] = fma(yj, load_lanes<F>(g + j, count), sums[1]);
      });
      const LogitGradient<F> gradient{g, F(static_cast<Scalar>(total == 0 ? 0 : dot / total)), inverse_tau};
      const RowWriter<F> writer(dlogits.row(i), args.stream && dlogits.in_place());
      writer.put(0, columns, [=](int64_t j, auto count) {
        return gradient(j, count, load_lanes<F>(y + j, count), F(1));
      });
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
