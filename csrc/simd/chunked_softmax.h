// The softmax of a row, by chunks: one sweep takes the exponentials relative to the chunk's largest value, then the chunks
// are brought to a common scale; and that of interleaved rows.

// The largest value of a chunk, 0 where it is -inf: weights of 0 then, not of NaN.
template <class F>
typename F::Scalar top_or_zero(const ChunkOf<F>& x) {
  using Scalar = typename F::Scalar;
  F tops[4] = {F(kMinusInfinity<Scalar>), F(kMinusInfinity<Scalar>), F(kMinusInfinity<Scalar>), F(kMinusInfinity<Scalar>)};
  for (int first = 0; first < x.size; first += ChunkOf<F>::kStep) {
    const Scalar* values = x.step(first);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) tops[i] = max(tops[i], F::load(values + i * F::lanes));
  }
  const Scalar top = reduce_max(max(max(tops[0], tops[1]), max(tops[2], tops[3])));
  return top == kMinusInfinity<Scalar> ? 0 : top;
}

// The softmax of a row by chunks: weights relative to the chunk's top, and the factor of each chunk that makes them
// probabilities. A row of only -inf gets factors of 0, one with NaN or +inf factors of NaN.
template <class F>
class ChunkedSoftmax {
 public:
  using Scalar = typename F::Scalar;

  explicit ChunkedSoftmax(const RowTiles& tiles)
      : chunks_(tiles),
        weights_(allocate<Scalar>(chunks_.count() * kChunk)),
        tops_(chunks_.count()),
        factors_(chunks_.count()),
        sums_(chunks_.count()) {}

  const RowChunks<F>& chunks() const { return chunks_; }

  void weigh(int64_t c, const Scalar* row) {
    const ChunkOf<F> x(row + c * kChunk, chunks_.size(c), kMinusInfinity<Scalar>);
    const F top(tops_[c] = top_or_zero(x));
    Scalar* const weights = weights_.get() + c * kChunk;
    F sums[4] = {F(0), F(0), F(0), F(0)};
    for (int first = 0; first < x.size; first += ChunkOf<F>::kStep) {
      const Scalar* logits = x.step(first);
      F w[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) w[i] = natural_exp(F::load(logits + i * F::lanes) - top);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        w[i].store(weights + first + i * F::lanes);
        sums[i] = sums[i] + w[i];
      }
      prefetch_columns(row + (c + 1) * kChunk, first, first + ChunkOf<F>::kStep);
    }
    sums_[c] = reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  void combine() {
    top_ = kMinusInfinity<double>;
    for (int64_t c = 0; c < chunks_.count(); ++c) {
      if (sums_[c] != 0) top_ = std::max(top_, double{tops_[c]});
    }
    total_ = 0;
    for (int64_t c = 0; c < chunks_.count(); ++c) {
      const double factor = sums_[c] == 0 ? 0 : std::exp(tops_[c] - top_);
      factors_[c] = static_cast<Scalar>(factor);
      total_ += factor * sums_[c];
    }
    const double inverse = total_ == 0 ? 0 : 1 / total_;
    for (Scalar& factor : factors_) factor = static_cast<Scalar>(factor * inverse);
    if (total_ == 0) top_ = 0;
  }

  const Scalar* weights(int64_t c) const { return weights_.get() + c * kChunk; }
  Scalar top(int64_t c) const { return tops_[c]; }
  double top() const { return top_; }
  double total() const { return total_; }
  Scalar factor(int64_t c) const { return factors_[c]; }
  // The chunk's top above the row's; 0 where the chunk has no weight, and it does not matter.
  double lag(int64_t c) const { return sums_[c] == 0 ? 0 : tops_[c] - top_; }

 private:
  RowChunks<F> chunks_;
  Allocation<Scalar> weights_;
  std::vector<Scalar> tops_, factors_;
  std::vector<double> sums_;
  double top_ = 0, total_ = 0;
};

// Softmaxes of the opened rows: weights, and the factor of each row that makes them probabilities.
class ColumnSoftmax {
 public:
  explicit ColumnSoftmax(int64_t columns)
      : columns_(columns), weights_(allocate<float>(columns * F32::lanes)) {}

  // logit(column) gives the rows' logits.
  template <class Logit>
  void weigh(const Logit& logit) {
    F32 top(kMinusInfinity<float>);
    for (int64_t j = 0; j < columns_; ++j) top = max(top, logit(j));
    top_ = select(top == F32(kMinusInfinity<float>), F32(0), top);  // weights of 0, not of NaN
    F32 sums[4] = {F32(0), F32(0), F32(0), F32(0)};
    for (int64_t j = 0; j < columns_; ++j) {
      const F32 w = natural_exp(logit(j) - top_);
      w.store(weights_.get() + j * F32::lanes);
      sums[j % 4] = sums[j % 4] + w;
    }
    total_ = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    factor_ = select(total_ == F32(0), F32(0), F32(1) / total_);
  }

  F32 operator()(int64_t column) const { return F32::load(weights_.get() + column * F32::lanes) * factor_; }
  F32 top() const { return top_; }
  F32 total() const { return total_; }

 private:
  int64_t columns_;
  Allocation<float> weights_;
  F32 top_, total_, factor_;
};
