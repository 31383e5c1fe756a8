// The categorical divergence along the row: one sweep takes the exponentials of a chunk relative to its largest value, the
// chunks are brought to a common scale, a second sweep uses them.

#ifndef DVAE_TARGET  // for an editor
#include "categorical_kl/arguments.h"
#include "simd/editor.h"
#endif

// pi = softmax(logits), m = softmax(prior) or uniform, and delta = log(pi / m) up to a constant, of a row.
template <class F, bool has_prior>
class KlRow {
 public:
  using Scalar = typename F::Scalar;

  explicit KlRow(const RowTiles& tiles)
      : pi_(tiles), m_(has_prior ? tiles : RowTiles{}), chunks_(pi_.chunks()), sums_(chunks_.count()) {}

  void weigh(const Scalar* logits, const Scalar* prior) {
    logits_ = logits;
    prior_ = prior;
    chunks_.for_each([&](int64_t c) {
      pi_.weigh(c, logits);
      if constexpr (has_prior) m_.weigh(c, prior);
    });
    pi_.combine();
    if constexpr (has_prior) m_.combine();
  }

  double kl() {
    if (pi_.total() == 0) return NAN;
    const double m_total = has_prior ? m_.total() : static_cast<double>(chunks_.columns());
    const double normal = std::log(pi_.total() / (m_total == 0 ? 1 : m_total));
    chunks_.for_each([&](int64_t c) {
      const F shift(static_cast<Scalar>(lag(c) - normal));
      const Row row = at(c);
      sums_[c] = sums_by_runs<F, 1>(row.size, [=](int64_t j, auto count, F* sum) {
        const Entry e = row.entry(j, count);
        *sum = *sum + divergence_term(e.delta + shift, e.pi, e.m);
      })[0];
    });
    return sum_of_chunks();
  }

  // The mean of delta under pi, relative to the row's tops.
  double mean_delta() {
    chunks_.for_each([&](int64_t c) {
      const F shift(static_cast<Scalar>(lag(c)));
      const Row row = at(c);
      sums_[c] = sums_by_runs<F, 1>(row.size, [=](int64_t j, auto count, F* sum) {
        const Entry e = row.entry(j, count);
        *sum = *sum + select(e.pi == F(0), F(0), e.pi * (e.delta + shift));
      })[0];
    });
    return sum_of_chunks();
  }

  void gradients(Scalar g, const RowWriter<F>& dlogits, const RowWriter<F>* dprior) {
    const double mean = mean_delta();
    chunks_.for_each([&](int64_t c) {
      const F grad(g), shift(static_cast<Scalar>(lag(c) - mean));
      const Row row = at(c);
      const int64_t first = c * kChunk;
      dlogits.put(first, first + row.size, [=](int64_t j, auto count) {
        const Entry e = row.entry(j - first, count);
        return select(e.pi == F(0), F(0), grad * e.pi * (e.delta + shift));
      });
      if (dprior == nullptr) return;
      dprior->put(first, first + row.size, [=](int64_t j, auto count) {
        const Entry e = row.entry(j - first, count);
        return grad * (e.m - e.pi);
      });
    });
  }

 private:
  struct Entry {
    F pi, m, delta;  // relative to the chunk's tops
  };
  // A chunk of the row.
  struct Row {
    const Scalar *weights, *prior_weights, *logits, *prior;
    Scalar factor, prior_factor, top, prior_top;
    int size;

    // 0 beyond the row's end
    template <class Count>
    Entry entry(int64_t j, Count count) const {
      const F pi = F::load(weights + j) * F(factor);
      const F delta = load_or<F>(logits + j, count, kMinusInfinity<Scalar>) - F(top);
      if constexpr (has_prior) {
        const F log_m = load_or<F>(prior + j, count, kMinusInfinity<Scalar>) - F(prior_top);
        return {pi, F::load(prior_weights + j) * F(prior_factor), delta - log_m};
      } else {
        return {pi, in_lanes(F(prior_factor), count), delta};
      }
    }
  };
  Row at(int64_t c) const {
    Row row{pi_.weights(c), nullptr, logits_ + c * kChunk, nullptr, pi_.factor(c),
            1 / static_cast<Scalar>(chunks_.columns()), pi_.top(c), 0, chunks_.size(c)};
    if constexpr (has_prior) {
      row.prior_weights = m_.weights(c);
      row.prior = prior_ + c * kChunk;
      row.prior_factor = m_.factor(c);
      row.prior_top = m_.top(c);
    }
    return row;
  }

  double lag(int64_t c) const {
    if constexpr (has_prior) return pi_.lag(c) - m_.lag(c);
    return pi_.lag(c);
  }
  double sum_of_chunks() const {
    double total = 0;
    for (const double sum : sums_) total += sum;
    return total;
  }

  ChunkedSoftmax<F> pi_, m_;
  const RowChunks<F>& chunks_;
  std::vector<double> sums_;
  const Scalar *logits_ = nullptr, *prior_ = nullptr;
};

// A prior's rows, or nothing that costs anything.
template <class F, bool has_prior, int N>
RowTensor<F> prior_rows(const Rows<N>& rows, int tensor, const RowTiles& tiles) {
  if (has_prior) return RowTensor<F>(rows, tensor, tiles);
  return RowTensor<F>(Buffer{nullptr, storage_of<typename F::Scalar>}, {0, 1, 0}, 0, 1);
}

template <class F, bool has_prior>
void kl_rows(const CategoricalKlArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  KlRow<F, has_prior> row_state(tiles);
  RowTensor<F> logits(args.rows, 1, tiles);
  RowTensor<F> prior = prior_rows<F, has_prior>(args.rows, 0, tiles);
  auto* kl = static_cast<Scalar*>(args.kl);
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    if (has_prior) prior.open(outer, inner, rows, true);
    for (int i = 0; i < rows; ++i) {
      row_state.weigh(logits.row(i), has_prior ? prior.row(i) : nullptr);
      kl[row + i] = static_cast<Scalar>(row_state.kl());
    }
  });
}

template <class F, bool has_prior>
void kl_backward_rows(
    const CategoricalKlBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const bool prior_grad = args.prior_grad;
  KlRow<F, has_prior> row_state(tiles);
  RowTensor<F> logits(args.rows, 0, tiles);
  RowTensor<F> prior = prior_rows<F, has_prior>(args.rows, 1, tiles);
  RowTensor<F> dlogits(args.rows, 3, tiles);
  RowTensor<F> dprior = prior_rows<F, has_prior>(args.rows, 2, tiles);
  const auto* grad = static_cast<const Scalar*>(args.grad);
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    if (has_prior) prior.open(outer, inner, rows, true);
    if (prior_grad) dprior.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      row_state.weigh(logits.row(i), has_prior ? prior.row(i) : nullptr);
      const RowWriter<F> to_prior = dprior.writer(i, tiles);
      row_state.gradients(grad[row + i], dlogits.writer(i, tiles), prior_grad ? &to_prior : nullptr);
    }
    dlogits.close(rows);
    if (prior_grad) dprior.close(rows);
  });
  if (tiles.stream) fence_streams();
}
