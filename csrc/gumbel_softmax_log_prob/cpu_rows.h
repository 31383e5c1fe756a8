// The concrete density along the row: one sweep takes the energies of a chunk and their exponentials relative to its largest,
// the chunks are brought to a common scale, a second sweep uses them.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax_log_prob/arguments.h"
#include "simd/editor.h"
#endif

// Rows of the concrete density: energies u = l - tau log y, their softmax, and the sums that density and gradients need.
template <class F>
class DensityRow {
 public:
  using Scalar = typename F::Scalar;

  DensityRow(const RowTiles& tiles, double tau)
      : tau_(tau),
        weights_(tiles),
        chunks_(weights_.chunks()),
        energies_(allocate<Scalar>(chunks_.count() * kChunk)),
        sums_(chunks_.count()) {}

  void weigh(const Scalar* y, const Scalar* logits) {
    chunks_.for_each([&](int64_t c) { weigh_chunk(c, y, logits); });
    weights_.combine();
    row_ = {};
    for (int64_t c = 0; c < chunks_.count(); ++c) {
      row_.count += sums_[c].count;
      row_.log_y += sums_[c].log_y;
      row_.energy += sums_[c].energy + sums_[c].count * weights_.lag(c);
      row_.mean_log_y += sums_[c].mean_log_y * weights_.factor(c);
    }
  }

  double count() const { return row_.count; }
  // less lgamma(count)
  double density() const {
    if (row_.count == 0) return NAN;
    return (row_.count - 1) * std::log(tau_) + row_.energy - row_.log_y - row_.count * std::log(weights_.total());
  }
  double tau_gradient() const {
    return row_.count == 0 ? 0 : (row_.count - 1) / tau_ + row_.count * row_.mean_log_y - row_.log_y;
  }

  void gradients(
      Scalar g, const Scalar* y, const Scalar* logits, const RowWriter<F>& dy, const RowWriter<F>& dlogits) const {
    chunks_.for_each([&](int64_t c) {
      const int64_t begin = c * kChunk, end = begin + chunks_.size(c);
      const Scalar* const weights = weights_.weights(c) - begin;
      const DensityGradient<F> gradient(F(g), F(static_cast<Scalar>(row_.count)), tau_);
      const Scalar factor = weights_.factor(c);
      dlogits.put(begin, end, [=](int64_t j, auto count) {
        return gradient.to_logits(load_or<F>(logits + j, count, 0), F::load(weights + j) * F(factor));
      });
      dy.put(begin, end, [=](int64_t j, auto count) {
        const F x = load_or<F>(logits + j, count, 0);
        return gradient.to_y(load_or<F>(y + j, count, 1), x, F::load(weights + j) * F(factor));
      });
    });
  }

 private:
  // Over the columns that are not excluded; the mean is under the softmax of the energies.
  struct Sums {
    double count = 0, log_y = 0, energy = 0, mean_log_y = 0;
  };

  void weigh_chunk(int64_t c, const Scalar* y_row, const Scalar* logits_row) {
    const int size = chunks_.size(c);
    const Scalar *x = logits_row + c * kChunk, *y = y_row + c * kChunk;
    Scalar* energies = energies_.get() + c * kChunk;
    alignas(64) Scalar buffer[kChunk];
    Scalar* const logs = buffer;
    const Functions<F> f;
    const F minus_tau(static_cast<Scalar>(-tau_));
    const auto [log_y_sum, count] = sums_by_runs<F, 2>(size, [=](int64_t j, auto n, F* sums) {
      const F xj = load_or<F>(x + j, n, kMinusInfinity<Scalar>);
      const auto excluded = xj == F(kMinusInfinity<Scalar>);
      const F log_y = log_of_sample(f, load_or<F>(y + j, n, 1));
      select(excluded, xj, fma(minus_tau, log_y, xj)).store(energies + j);
      const F kept = select(excluded, F(0), log_y);
      kept.store(logs + j);
      sums[0] = sums[0] + kept;
      sums[1] = sums[1] + select(excluded, F(0), F(1));
    });
    weights_.weigh(c, energies_.get());
    const F top(weights_.top(c));
    const Scalar* const weights = weights_.weights(c);
    const auto [energy, mean] = sums_by_runs<F, 2>(size, [&](int64_t j, auto, F* sums) {
      const F u = F::load(energies + j);  // -inf beyond the row's end
      sums[0] = sums[0] + select(u == F(kMinusInfinity<Scalar>), F(0), u - top);
      sums[1] = fma(F::load(weights + j), F::load(logs + j), sums[1]);
    });
    sums_[c] = {count, log_y_sum, energy, mean};
  }

  double tau_;
  ChunkedSoftmax<F> weights_;
  const RowChunks<F>& chunks_;
  Allocation<Scalar> energies_;
  std::vector<Sums> sums_;
  Sums row_;
};

template <class F>
void log_prob_rows(const LogProbArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  DensityRow<F> row_state(tiles, positive_or_nan(args.tau.value));
  RowTensor<F> y(args.rows, 0, tiles), logits(args.rows, 1, tiles);
  auto *density = static_cast<Scalar*>(args.density), *count = static_cast<Scalar*>(args.count);
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    y.open(outer, inner, rows, true);
    logits.open(outer, inner, rows, true);
    for (int i = 0; i < rows; ++i) {
      row_state.weigh(y.row(i), logits.row(i));
      density[row + i] = static_cast<Scalar>(row_state.density());
      count[row + i] = static_cast<Scalar>(row_state.count());
    }
  });
}

template <class F>
void log_prob_backward_rows(const LogProbBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  DensityRow<F> row_state(tiles, positive_or_nan(args.tau.value));
  RowTensor<F> y(args.rows, 0, tiles), logits(args.rows, 1, tiles);
  RowTensor<F> dy(args.rows, 2, tiles), dlogits(args.rows, 3, tiles);
  const auto* grad = static_cast<const Scalar*>(args.grad);
  auto* dtau_rows = static_cast<Scalar*>(args.dtau_rows);
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    y.open(outer, inner, rows, true);
    logits.open(outer, inner, rows, true);
    dy.open(outer, inner, rows, false);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const Scalar *yi = y.row(i), *xi = logits.row(i);
      row_state.weigh(yi, xi);
      row_state.gradients(
          grad[row + i], yi, xi, RowWriter<F>(dy.row(i), tiles.stream && dy.in_place()),
          RowWriter<F>(dlogits.row(i), tiles.stream && dlogits.in_place()));
      if (dtau_rows != nullptr) {
        dtau_rows[row + i] = static_cast<Scalar>(grad[row + i] * row_state.tau_gradient());
      }
    }
    dy.close(rows);
    dlogits.close(rows);
  });
  if (tiles.stream) fence_streams();
}
