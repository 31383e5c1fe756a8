// Kernels of the categorical divergence and the concrete density, over the SIMD layer. Included once per target by
// foreach_target.h. Each chunk of a row has a maximum of its own: one sweep takes the exponentials, the chunks are
// brought to a common scale, a second sweep uses them.

#ifndef DVAE_TARGET  // for an editor
#include "categorical_kl/cpu.h"
#include "simd/editor.h"
#endif

template <class Scalar>
constexpr Scalar kMinusInf = -std::numeric_limits<Scalar>::infinity();

// The first `count` columns at p, `fill` in the other lanes.
template <class F>
F load_or(const typename F::Scalar* p, AllLanes<F>, typename F::Scalar) {
  return F::load(p);
}
template <class F>
F load_or(const typename F::Scalar* p, int count, typename F::Scalar fill) {
  typename F::Scalar lanes[F::lanes];
  std::fill(lanes, lanes + F::lanes, fill);
  std::memcpy(lanes, p, count * sizeof(fill));
  return F::load(lanes);
}
// x in the first `count` lanes, 0 in the others.
template <class F>
F in_lanes(F x, AllLanes<F>) {
  return x;
}
template <class F>
F in_lanes(F x, int count) {
  typename F::Scalar lanes[F::lanes];
  x.store(lanes);
  return load_lanes<F>(lanes, count);
}

// The largest value of a chunk, 0 where it is -inf: weights of 0 then, not of NaN.
template <class F>
typename F::Scalar top_or_zero(const ChunkOf<F>& x) {
  using Scalar = typename F::Scalar;
  F tops[4] = {F(kMinusInf<Scalar>), F(kMinusInf<Scalar>), F(kMinusInf<Scalar>), F(kMinusInf<Scalar>)};
  for (int first = 0; first < x.size; first += ChunkOf<F>::kStep) {
    const Scalar* values = x.step(first);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) tops[i] = max(tops[i], F::load(values + i * F::lanes));
  }
  const Scalar top = reduce_max(max(max(tops[0], tops[1]), max(tops[2], tops[3])));
  return top == kMinusInf<Scalar> ? 0 : top;
}

template <class F>
F natural_exp(F x) {
  return exp2(x * F(kLog2e<typename F::Scalar>));
}

// m phi(t), phi(t) = e^t t - e^t + 1 and pi = m e^t: near 0 by the series of phi, which loses no digits there.
template <class F>
F divergence_term(F t, F pi, F m) {
  using Scalar = typename F::Scalar;
  constexpr Scalar near = sizeof(Scalar) == 4 ? 0x1p-2 : 0x1p-6;
  t = select(pi == F(0), F(Scalar(-1e30)), t);  // where pi is 0, all that is left is m
  const F square = t * t;
  F series = fma(F(Scalar(1.0 / 840)), t, F(Scalar(1.0 / 144)));
  series = fma(series, t, F(Scalar(1.0 / 30)));
  series = fma(series, t, F(Scalar(1.0 / 8)));
  series = fma(series, t, F(Scalar(1.0 / 3)));
  series = fma(series, t, F(Scalar(0.5)));
  return select(F(near * near) > square, m * square * series, fma(pi, t, m - pi));
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
    const ChunkOf<F> x(row + c * kChunk, chunks_.size(c), kMinusInf<Scalar>);
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
    top_ = kMinusInf<double>;
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
      const F delta = load_or<F>(logits + j, count, kMinusInf<Scalar>) - F(top);
      if constexpr (has_prior) {
        const F log_m = load_or<F>(prior + j, count, kMinusInf<Scalar>) - F(prior_top);
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
template <class F, bool has_prior>
RowTensor<F> prior_rows(const Buffer& prior, RowStrides strides, const RowTiles& tiles) {
  if (has_prior) return RowTensor<F>(prior, strides, tiles.columns, tiles.tile_rows);
  return RowTensor<F>(Buffer{nullptr, storage_of<typename F::Scalar>}, {0, 1, 0}, 0, 1);
}

template <class F, bool has_prior>
void kl_tiles(const KlArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  KlRow<F, has_prior> row_state(args.tiles);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> prior = prior_rows<F, has_prior>(args.prior, args.prior_strides, args.tiles);
  auto* kl = static_cast<Scalar*>(args.kl);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    if (has_prior) prior.open(outer, inner, rows, true);
    for (int i = 0; i < rows; ++i) {
      row_state.weigh(logits.row(i), has_prior ? prior.row(i) : nullptr);
      kl[row + i] = static_cast<Scalar>(row_state.kl());
    }
  });
}

template <class F, bool has_prior>
void kl_backward_tiles(const KlBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  const bool prior_grad = args.dprior.data != nullptr;
  KlRow<F, has_prior> row_state(args.tiles);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> prior = prior_rows<F, has_prior>(args.prior, args.prior_strides, args.tiles);
  RowTensor<F> dlogits(args.dlogits, args.dlogits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dprior = prior_rows<F, has_prior>(args.dprior, args.dprior_strides, args.tiles);
  const auto* grad = static_cast<const Scalar*>(args.grad);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    if (has_prior) prior.open(outer, inner, rows, true);
    if (prior_grad) dprior.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      row_state.weigh(logits.row(i), has_prior ? prior.row(i) : nullptr);
      const RowWriter<F> to_logits(dlogits.row(i), args.stream && dlogits.in_place());
      RowWriter<F> to_prior;
      if (prior_grad) to_prior = RowWriter<F>(dprior.row(i), args.stream && dprior.in_place());
      row_state.gradients(grad[row + i], to_logits, prior_grad ? &to_prior : nullptr);
    }
    dlogits.close(rows);
    if (prior_grad) dprior.close(rows);
  });
  if (args.stream) fence_streams();
}

// log max(y, smallest); NaN and +inf stay what they are.
template <class F>
F log_of_sample(const Functions<F>& f, F y) {
  using Scalar = typename F::Scalar;
  y = max(F(std::numeric_limits<Scalar>::min()), y);
  return select(is_nan(y - y), y, f.log2(y) * F(kLn2<Scalar>));
}

// Gradients of the concrete density, `share` being the softmax of the energies.
template <class F>
struct DensityGradient {
  using Scalar = typename F::Scalar;
  F grad, count, count_tau, tau_plus_1;

  DensityGradient(F grad, F count, double tau)
      : grad(grad),
        count(count),
        count_tau(count * F(static_cast<Scalar>(tau))),
        tau_plus_1(static_cast<Scalar>(tau + 1)) {}

  F to_logits(F x, F share) const { return select(excluded(x), share, grad * (F(1) - count * share)); }
  F to_y(F y, F x, F share) const {
    const F smallest(std::numeric_limits<Scalar>::min());
    const F gradient = grad * (count_tau * share - tau_plus_1) / max(smallest, y);
    return select(smallest > y, F(0), select(excluded(x), share, gradient));
  }

 private:
  // whose share is 0, or NaN in a row with NaN
  static auto excluded(F x) { return x == F(kMinusInf<Scalar>); }
};

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
      const F xj = load_or<F>(x + j, n, kMinusInf<Scalar>);
      const auto excluded = xj == F(kMinusInf<Scalar>);
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
      sums[0] = sums[0] + select(u == F(kMinusInf<Scalar>), F(0), u - top);
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
void log_prob_tiles(const LogProbArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  DensityRow<F> row_state(args.tiles, args.tau);
  RowTensor<F> y(args.y, args.y_strides, columns, args.tiles.tile_rows);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  auto *density = static_cast<Scalar*>(args.density), *count = static_cast<Scalar*>(args.count);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
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
void log_prob_backward_tiles(const LogProbBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  DensityRow<F> row_state(args.tiles, args.tau);
  RowTensor<F> y(args.y, args.y_strides, columns, args.tiles.tile_rows);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dy(args.dy, args.dy_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dlogits(args.dlogits, args.dlogits_strides, columns, args.tiles.tile_rows);
  const auto* grad = static_cast<const Scalar*>(args.grad);
  auto* dtau_rows = static_cast<Scalar*>(args.dtau_rows);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    y.open(outer, inner, rows, true);
    logits.open(outer, inner, rows, true);
    dy.open(outer, inner, rows, false);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const Scalar *yi = y.row(i), *xi = logits.row(i);
      row_state.weigh(yi, xi);
      row_state.gradients(
          grad[row + i], yi, xi, RowWriter<F>(dy.row(i), args.stream && dy.in_place()),
          RowWriter<F>(dlogits.row(i), args.stream && dlogits.in_place()));
      if (dtau_rows != nullptr) {
        dtau_rows[row + i] = static_cast<Scalar>(grad[row + i] * row_state.tau_gradient());
      }
    }
    dy.close(rows);
    dlogits.close(rows);
  });
  if (args.stream) fence_streams();
}

#include "categorical_kl/cpu_columns.h"

void categorical_kl_kernel(const KlArgs& args, int64_t begin, int64_t end) {
  const bool prior = args.prior.data != nullptr;
  if (args.logits.type == Storage::float64) {
    prior ? kl_tiles<F64, true>(args, begin, end) : kl_tiles<F64, false>(args, begin, end);
  } else if (args.tiles.interleaved) {
    prior ? kl_columns<true>(args, begin, end) : kl_columns<false>(args, begin, end);
  } else {
    prior ? kl_tiles<F32, true>(args, begin, end) : kl_tiles<F32, false>(args, begin, end);
  }
}

void categorical_kl_backward_kernel(const KlBackwardArgs& args, int64_t begin, int64_t end) {
  const bool prior = args.prior.data != nullptr;
  if (args.logits.type == Storage::float64) {
    prior ? kl_backward_tiles<F64, true>(args, begin, end) : kl_backward_tiles<F64, false>(args, begin, end);
  } else if (args.tiles.interleaved) {
    prior ? kl_backward_columns<true>(args, begin, end) : kl_backward_columns<false>(args, begin, end);
  } else {
    prior ? kl_backward_tiles<F32, true>(args, begin, end) : kl_backward_tiles<F32, false>(args, begin, end);
  }
}

void log_prob_kernel(const LogProbArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return log_prob_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? log_prob_columns(args, begin, end) : log_prob_tiles<F32>(args, begin, end);
}

void log_prob_backward_kernel(const LogProbBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return log_prob_backward_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? log_prob_backward_columns(args, begin, end) : log_prob_backward_tiles<F32>(args, begin, end);
}
