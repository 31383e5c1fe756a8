// The same kernels for narrow or strided rows, F32::lanes of them side by side.

#ifndef DVAE_TARGET  // for an editor
#include "categorical_kl/cpu.h"
#include "simd/editor.h"
#endif

// Softmaxes of the opened rows: weights, and the factor of each row that makes them probabilities.
class ColumnSoftmax {
 public:
  explicit ColumnSoftmax(int64_t columns)
      : columns_(columns), weights_(allocate<float>(columns * F32::lanes)) {}

  // logit(column) gives the rows' logits.
  template <class Logit>
  void weigh(const Logit& logit) {
    F32 top(kMinusInf<float>);
    for (int64_t j = 0; j < columns_; ++j) top = max(top, logit(j));
    top_ = select(top == F32(kMinusInf<float>), F32(0), top);  // weights of 0, not of NaN
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

// Writes the values of the tile's rows, which begin at number `row`.
inline void put_rows(F32 values, int rows, float* to, int64_t row) {
  float lanes[F32::lanes];
  values.store(lanes);
  std::copy(lanes, lanes + rows, to + row);
}
inline F32 get_rows(const float* from, int64_t row, int rows) {
  float lanes[F32::lanes] = {};
  std::copy(from + row, from + row + rows, lanes);
  return F32::load(lanes);
}

// pi, m and delta as in KlRow.
template <bool has_prior>
class KlColumns {
 public:
  KlColumns(const RowTiles& tiles, const Buffer& logits, RowStrides logits_strides, const Buffer& prior,
            RowStrides prior_strides)
      : columns_(tiles.columns),
        logits_(logits, logits_strides, tiles),
        prior_(prior, prior_strides, has_prior ? tiles : RowTiles{}),
        pi_(tiles.columns),
        m_(has_prior ? tiles.columns : 0) {}

  void open(int64_t row) {
    logits_.open(row, true);
    pi_.weigh([&](int64_t j) { return logits_.load(j); });
    if constexpr (has_prior) {
      prior_.open(row, true);
      m_.weigh([&](int64_t j) { return prior_.load(j); });
    }
  }
  int rows() const { return logits_.rows(); }

  F32 kl() const {
    const F32 m_total = has_prior ? select(m_.total() == F32(0), F32(1), m_.total()) : F32(float(columns_));
    const Functions<F32> f;
    const F32 normal = (f.log2(pi_.total()) - f.log2(m_total)) * F32(kLn2<float>);
    const F32 kl = sum([&](F32 delta, F32 pi, F32 m) { return divergence_term(delta - normal, pi, m); });
    return select(pi_.total() == F32(0), F32(NAN), kl);
  }
  F32 mean_delta() const {
    return sum([](F32 delta, F32 pi, F32) { return select(pi == F32(0), F32(0), pi * delta); });
  }

  // Calls put(column, delta, pi, m).
  template <class Put>
  void for_each(const Put& put) const {
    const F32 uniform(1 / static_cast<float>(columns_));
    for (int64_t j = 0; j < columns_; ++j) {
      F32 delta = logits_.load(j) - pi_.top(), m = uniform;
      if constexpr (has_prior) {
        delta = delta - (prior_.load(j) - m_.top());
        m = m_(j);
      }
      put(j, delta, pi_(j), m);
    }
  }

 private:
  template <class Term>
  F32 sum(const Term& term) const {
    F32 sums[4] = {F32(0), F32(0), F32(0), F32(0)};
    for_each([&](int64_t j, F32 delta, F32 pi, F32 m) { sums[j % 4] = sums[j % 4] + term(delta, pi, m); });
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  int64_t columns_;
  ColumnTensor logits_, prior_;
  ColumnSoftmax pi_, m_;
};

template <bool has_prior>
void kl_columns(const KlArgs& args, int64_t begin, int64_t end) {
  KlColumns<has_prior> columns(args.tiles, args.logits, args.logits_strides, args.prior, args.prior_strides);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    put_rows(columns.kl(), columns.rows(), static_cast<float*>(args.kl), row);
  }
}

template <bool has_prior>
void kl_backward_columns(const KlBackwardArgs& args, int64_t begin, int64_t end) {
  KlColumns<has_prior> columns(args.tiles, args.logits, args.logits_strides, args.prior, args.prior_strides);
  const bool prior_grad = has_prior && args.dprior.data != nullptr;
  ColumnTensor dlogits(args.dlogits, args.dlogits_strides, args.tiles);
  ColumnTensor dprior(args.dprior, args.dprior_strides, prior_grad ? args.tiles : RowTiles{});
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    dlogits.open(row, false);
    if (prior_grad) dprior.open(row, false);
    const F32 g = get_rows(static_cast<const float*>(args.grad), row, columns.rows());
    const F32 mean = columns.mean_delta();
    columns.for_each([&](int64_t j, F32 delta, F32 pi, F32 m) {
      dlogits.store(j, select(pi == F32(0), F32(0), g * pi * (delta - mean)));
      if (prior_grad) dprior.store(j, g * (m - pi));
    });
    dlogits.close();
    if (prior_grad) dprior.close();
  }
}

// The sums of DensityRow.
class DensityColumns {
 public:
  DensityColumns(const RowTiles& tiles, const Buffer& y, RowStrides y_strides, const Buffer& logits,
                 RowStrides logits_strides, double tau)
      : columns_(tiles.columns),
        tau_(tau),
        y_(y, y_strides, tiles),
        logits_(logits, logits_strides, tiles),
        energies_(allocate<float>(tiles.columns * F32::lanes)),
        share_(tiles.columns) {}

  void open(int64_t row) {
    y_.open(row, true);
    logits_.open(row, true);
    const F32 minus_tau(static_cast<float>(-tau_));
    count_ = log_y_ = energy_ = F32(0);
    for (int64_t j = 0; j < columns_; ++j) {
      const F32 xj = x(j), log_y = log_of_sample(f_, y(j));
      const auto excluded = xj == F32(kMinusInf<float>);
      select(excluded, xj, fma(minus_tau, log_y, xj)).store(energies_.get() + j * F32::lanes);
      log_y_ = log_y_ + select(excluded, F32(0), log_y);
      count_ = count_ + select(excluded, F32(0), F32(1));
    }
    share_.weigh([&](int64_t j) { return energy(j); });
    for (int64_t j = 0; j < columns_; ++j) {
      energy_ = energy_ + select(x(j) == F32(kMinusInf<float>), F32(0), energy(j) - share_.top());
    }
  }
  int rows() const { return y_.rows(); }

  F32 count() const { return count_; }
  // less lgamma(count)
  F32 density() const {
    const F32 density = fma(count_ - F32(1), F32(static_cast<float>(std::log(tau_))), energy_ - log_y_) -
                        count_ * (f_.log2(share_.total()) * F32(kLn2<float>));
    return select(count_ == F32(0), F32(NAN), select(is_nan(share_.total()), F32(NAN), density));
  }
  F32 tau_gradient() const {
    F32 sum(0);
    for (int64_t j = 0; j < columns_; ++j) {
      const F32 part = (count_ * share_(j) - F32(1)) * log_of_sample(f_, y(j));
      sum = sum + select(x(j) == F32(kMinusInf<float>), F32(0), part);
    }
    return select(count_ == F32(0), F32(0), fma(count_ - F32(1), F32(static_cast<float>(1 / tau_)), sum));
  }

  F32 x(int64_t column) const { return logits_.load(column); }
  F32 y(int64_t column) const { return y_.load(column); }
  F32 share(int64_t column) const { return share_(column); }

 private:
  F32 energy(int64_t column) const { return F32::load(energies_.get() + column * F32::lanes); }

  int64_t columns_;
  double tau_;
  ColumnTensor y_, logits_;
  Allocation<float> energies_;
  ColumnSoftmax share_;
  Functions<F32> f_;
  F32 count_, log_y_, energy_;
};

void log_prob_columns(const LogProbArgs& args, int64_t begin, int64_t end) {
  DensityColumns columns(args.tiles, args.y, args.y_strides, args.logits, args.logits_strides, args.tau);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    put_rows(columns.density(), columns.rows(), static_cast<float*>(args.density), row);
    put_rows(columns.count(), columns.rows(), static_cast<float*>(args.count), row);
  }
}

void log_prob_backward_columns(const LogProbBackwardArgs& args, int64_t begin, int64_t end) {
  DensityColumns columns(args.tiles, args.y, args.y_strides, args.logits, args.logits_strides, args.tau);
  ColumnTensor dy(args.dy, args.dy_strides, args.tiles);
  ColumnTensor dlogits(args.dlogits, args.dlogits_strides, args.tiles);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    dy.open(row, false);
    dlogits.open(row, false);
    const F32 g = get_rows(static_cast<const float*>(args.grad), row, columns.rows());
    const DensityGradient<F32> gradient(g, columns.count(), args.tau);
    for (int64_t j = 0; j < args.tiles.columns; ++j) {
      const F32 x = columns.x(j), share = columns.share(j);
      dlogits.store(j, gradient.to_logits(x, share));
      dy.store(j, gradient.to_y(columns.y(j), x, share));
    }
    if (args.dtau_rows != nullptr) {
      put_rows(g * columns.tau_gradient(), columns.rows(), static_cast<float*>(args.dtau_rows), row);
    }
    dy.close();
    dlogits.close();
  }
}
