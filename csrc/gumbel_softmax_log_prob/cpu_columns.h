// The concrete density of narrow or strided rows, F32::lanes of them side by side.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax_log_prob/arguments.h"
#include "simd/editor.h"
#endif

// The sums of DensityRow.
class DensityColumns {
 public:
  // The first two tensors are y and the logits.
  template <int N>
  DensityColumns(const Rows<N>& rows, const RowTiles& tiles, double tau)
      : columns_(tiles.columns),
        tau_(tau),
        y_(rows, 0, tiles),
        logits_(rows, 1, tiles),
        energies_(allocate<float>(tiles.columns * F32::lanes)),
        share_(tiles.columns) {}

  void open(int64_t row) {
    y_.open(row, true);
    logits_.open(row, true);
    const F32 minus_tau(static_cast<float>(-tau_));
    count_ = log_y_ = energy_ = F32(0);
    for (int64_t j = 0; j < columns_; ++j) {
      const F32 xj = x(j), log_y = log_of_sample(f_, y(j));
      const auto excluded = xj == F32(kMinusInfinity<float>);
      select(excluded, xj, fma(minus_tau, log_y, xj)).store(energies_.get() + j * F32::lanes);
      log_y_ = log_y_ + select(excluded, F32(0), log_y);
      count_ = count_ + select(excluded, F32(0), F32(1));
    }
    share_.weigh([&](int64_t j) { return energy(j); });
    for (int64_t j = 0; j < columns_; ++j) {
      energy_ = energy_ + select(x(j) == F32(kMinusInfinity<float>), F32(0), energy(j) - share_.top());
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
      sum = sum + select(x(j) == F32(kMinusInfinity<float>), F32(0), part);
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

void log_prob_columns(const LogProbArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  const double tau = positive_or_nan(args.tau.value);
  DensityColumns columns(args.rows, tiles, tau);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    put_rows(columns.density(), columns.rows(), static_cast<float*>(args.density), row);
    put_rows(columns.count(), columns.rows(), static_cast<float*>(args.count), row);
  }
}

void log_prob_backward_columns(
    const LogProbBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  const double tau = positive_or_nan(args.tau.value);
  DensityColumns columns(args.rows, tiles, tau);
  ColumnTensor dy(args.rows, 2, tiles), dlogits(args.rows, 3, tiles);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    dy.open(row, false);
    dlogits.open(row, false);
    const F32 g = get_rows(static_cast<const float*>(args.grad), row, columns.rows());
    const DensityGradient<F32> gradient(g, columns.count(), tau);
    for (int64_t j = 0; j < tiles.columns; ++j) {
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
