// The categorical divergence of narrow or strided rows, F32::lanes of them side by side.

#ifndef DVAE_TARGET  // for an editor
#include "categorical_kl/arguments.h"
#include "simd/editor.h"
#endif

// pi, m and delta as in KlRow.
template <bool has_prior>
class KlColumns {
 public:
  // The numbers of the tensors that hold logits and prior.
  template <int N>
  KlColumns(const Rows<N>& rows, int logits, int prior, const RowTiles& tiles)
      : columns_(tiles.columns),
        logits_(rows, logits, tiles),
        prior_(rows, prior, has_prior ? tiles : RowTiles{}),
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
void kl_columns(const CategoricalKlArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  KlColumns<has_prior> columns(args.rows, 1, 0, tiles);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    columns.open(row);
    put_rows(columns.kl(), columns.rows(), static_cast<float*>(args.kl), row);
  }
}

template <bool has_prior>
void kl_backward_columns(
    const CategoricalKlBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  KlColumns<has_prior> columns(args.rows, 0, 1, tiles);
  const bool prior_grad = has_prior && args.prior_grad;
  ColumnTensor dlogits(args.rows, 3, tiles);
  ColumnTensor dprior(args.rows, 2, prior_grad ? tiles : RowTiles{});
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
