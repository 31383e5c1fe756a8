// The weights of a (Gumbel-)softmax over a row. Each chunk has its own maximum, so that one sweep over the noise gives the
// weights 2^z, z = (p - top) log2(e) / tau, and their sums; the chunks are brought to a common scale when the row is
// written.

// Sums over a chunk, or a row: of the weights w, and with an incoming gradient g of w g; where the gradient to tau is
// needed also of w z and w g z, z the exponent of the weight.
template <class S>
struct Sums {
  S weight, grad, exponent, grad_exponent;
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

  // Without a key there is no noise.
  RowWeights(const RowTiles& tiles, const KeyWords& key, double inverse_tau)
      : chunks_(tiles),
        noise_(key.read()),
        form_(key.data == nullptr ? Form::plain : inverse_tau == 1 && tiles.columns > 1 ? Form::reciprocal : Form::perturbed),
        steepness_(static_cast<Scalar>(
            std::min(inverse_tau * kLog2e<double>, double{std::numeric_limits<Scalar>::max()}))),
        sums_(chunks_.count()),
        tops_(chunks_.count()) {
    for (Row& row : rows_) {
      row.weights.reset(allocate<Scalar>(chunks_.count() * kChunk + kPadding));
      row.scales.resize(chunks_.count());
    }
  }

  const RowChunks<F>& chunks() const { return chunks_; }

  // The weights of a row and their scales; weight * scale is the sample. Gives the wanted sums over the sample. Calls
  // meanwhile(begin, end) for all columns, piece by piece, where the processor would wait; until this returns, write()
  // takes the row before.
  template <Want want, class Meanwhile = Nothing>
  Sums<double> compute(const Scalar* x, const Scalar* g, uint32_t row, const Meanwhile& meanwhile = {}) {
    noise_.set_row(row);
    // the gradient to tau needs the exponent, so the second logarithm
    constexpr Form quick = want == Want::grad_and_tau ? Form::perturbed : Form::reciprocal;
    chunks_.for_each([&](int64_t c) {
      form_ == Form::plain       ? weigh<want, Form::plain>(c, x, g, meanwhile)
      : form_ == Form::perturbed ? weigh<want, Form::perturbed>(c, x, g, meanwhile)
                                 : weigh<want, quick>(c, x, g, meanwhile);
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
    to.put(begin, std::min(end, chunks_.columns()), [=](int64_t j, auto count) {
      return finish(j, count, F::load(weights + j), scale);
    });
  }
  // For the whole row, shared out to threads.
  template <class Finish>
  void write(const RowWriter<F>& to, const Finish& finish) const {
    chunks_.for_each([&](int64_t c) { write(c * kChunk, (c + 1) * kChunk, to, finish); });
  }

  // log2 of the sum of 2^(l log2(e) / tau) over the row.
  double log2_total() const { return top_ * steepness_ + std::log2(total_); }

  // The sample in the vector that starts at a column.
  F sample(int64_t column) const {
    return F::load(rows_[0].weights.get() + column) * F(rows_[0].scales[column / kChunk]);
  }

 private:
  // weight = 2^z of the perturbed logits; or at tau = 1 e^l / E, which needs no second logarithm (a single column must
  // come out as exactly 1, though); or 2^z of the logits.
  enum class Form { perturbed, reciprocal, plain };

  static constexpr int kStep = RowChunks<F>::kStep;
  static constexpr int kPadding = 528;  // keeps the two rows' columns from falling on the same cache sets

  template <Want want, Form form, class Meanwhile>
  void weigh(int64_t c, const Scalar* row, const Scalar* grad, const Meanwhile& meanwhile) {
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    const int64_t start = c * kChunk;
    const int n = chunks_.size(c);
    const ChunkOf<F> x(row + start, n, -infinity);
    const auto fetch = [&](int begin, int end) {
      prefetch_columns(row + start, begin, end);
      if constexpr (want != Want::weights) prefetch_columns(grad + start, begin, end);
      meanwhile(start + begin, start + end);
    };
    alignas(64) uint32_t bits[kChunk];
    alignas(64) Scalar work[kChunk];  // perturbed logits, or 1 / E'
    if constexpr (form == Form::plain) {
      for (int j = 0; j < x.size; j += 4 * kStep) fetch(j, std::min(j + 4 * kStep, x.size));
    } else {
      noise_.fill(static_cast<uint32_t>(start / 4), bits, x.size, fetch);
    }
    const Functions<F> f;
    F largest(-infinity);
    for (int first = 0; first < x.size; first += kStep) {
      const Scalar* logits = x.step(first);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        if constexpr (form == Form::perturbed) {
          const F p = perturbed(f, logits + i * F::lanes, bits + j);
          p.store(work + j);
          largest = max(largest, p);
        } else {
          if constexpr (form == Form::reciprocal) reciprocal(f.exponential(bits + j)).store(work + j);
          largest = max(largest, F::load(logits + i * F::lanes));
        }
      }
    }
    Scalar top = reduce_max(largest);
    tops_[c] = top;
    if (top == -infinity) top = 0;  // weights of 0, not of NaN

    Scalar* weights = rows_[1].weights.get() + start;
    if constexpr (want == Want::weights) {
      sums_[c] = weigh_out<want, form>(x, x, work, top, weights);
    } else {
      sums_[c] = weigh_out<want, form>(x, ChunkOf<F>(grad + start, n, 0), work, top, weights);
    }
  }

  template <Want want, Form form>
  Sums<Scalar> weigh_out(
      const ChunkOf<F>& x, const ChunkOf<F>& g, const Scalar* work, Scalar top, Scalar* weights) const {
    const F steepness(steepness_), shift(top);
    Sums<F> sums[4] = {};
    for (int first = 0; first < x.size; first += kStep) {
      const Scalar *logits = x.step(first), *grads = g.step(first);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        const F p = F::load(form == Form::perturbed ? work + j : logits + i * F::lanes);
        const F z = (p - shift) * steepness;
        F w = exp2(z);
        if constexpr (form == Form::reciprocal) w = w * F::load(work + j);
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
    Sums<double> row{};
    std::vector<Scalar>& scales = rows_[1].scales;
    for (int64_t c = 0; c < chunks_.count(); ++c) {
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
    top_ = top;
    total_ = row.weight;
    const double inverse = row.weight == 0 ? 0 : 1 / row.weight;
    for (Scalar& scale : scales) scale = static_cast<Scalar>(scale * inverse);
    return {row.weight * inverse, row.grad * inverse, row.exponent * inverse, row.grad_exponent * inverse};
  }

  struct Row {
    Allocation<Scalar> weights;
    std::vector<Scalar> scales;  // by chunk
  };

  RowChunks<F> chunks_;
  RowNoise noise_;
  Form form_;
  Scalar steepness_;
  Row rows_[2];  // the last one that is whole, and the one in work
  double top_ = 0, total_ = 0;  // of the last row
  // by chunk
  std::vector<Sums<Scalar>> sums_;
  std::vector<Scalar> tops_;
};

// Writes a row from its weights while the integers of the next row are drawn, or at once where its tile has to be closed
// before that or threads share the row.
template <class F, class Finish>
class RowOutput {
 public:
  RowOutput(const RowWeights<F>& weights, bool at_once)
      : weights_(weights), at_once_(at_once || weights.chunks().shared()) {}

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

