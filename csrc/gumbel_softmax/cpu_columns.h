// The same kernels for narrow or strided rows: a tile of F32::lanes rows side by side, so that nothing is reduced
// across lanes and [B, K, H, W] is read as it lies.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax/arguments.h"
#include "simd/editor.h"
#endif

class ColumnWeights {
 public:
  // Without a key there is no noise.
  ColumnWeights(const RowTiles& tiles, const NoiseArgument& noise, double inverse_tau)
      : columns_(tiles.columns),
        row_offset_(noise.row_offset),
        noise_(noise.key.read()),
        noisy_(noise.key.data != nullptr),
        steepness_(static_cast<float>(
            std::min(inverse_tau * kLog2e<double>, double{std::numeric_limits<float>::max()}))),
        weights_(allocate<float>(tiles.columns * F32::lanes)) {}

  // The weights of the opened rows and their common scale; weight * scale is the sample. Gives the wanted sums over it.
  template <Want want>
  Sums<F32> compute(const ColumnTensor& x, const ColumnTensor* g, int64_t row) {
    F32 top(-kInfinity);
    perturb(x, row, [&](int64_t j, F32 p) {
      p.store(weights(j));
      top = max(top, p);
    });
    top = select(top == F32(-kInfinity), F32(0), top);  // weights of 0, not of NaN
    const F32 steepness(steepness_);
    Sums<F32> sums[4] = {};
    for (int64_t first = 0; first < columns_; first += 4) {
      for (int i = 0; i < std::min<int64_t>(4, columns_ - first); ++i) {
        const int64_t j = first + i;
        const F32 z = (F32::load(weights(j)) - top) * steepness;
        const F32 w = exp2(z);
        w.store(weights(j));
        add<want>(w, z, want == Want::weights ? w : g->load(j), &sums[i]);
      }
    }
    const F32 weight = sum_of(sums, &Sums<F32>::weight);
    scale_ = select(weight == F32(0), F32(0), F32(1) / weight);
    return {weight, sum_of(sums, &Sums<F32>::grad) * scale_, sum_of(sums, &Sums<F32>::exponent) * scale_,
            sum_of(sums, &Sums<F32>::grad_exponent) * scale_};
  }

  F32 sample(int64_t column) const { return F32::load(weights(column)) * scale_; }

  // The column of the largest perturbed logit of each row, the lowest of equals; kNone where all are -inf, kNan in a
  // row with NaN or +inf.
  F32 argmax(const ColumnTensor& x, int64_t row) {
    F32 best(-kInfinity), index(kNone), unordered(0);
    perturb(x, row, [&](int64_t j, F32 p) {
      const Mask better = p > best;
      best = select(better, p, best);
      index = select(better, F32(static_cast<float>(j)), index);
      unordered = select(is_nan(p), p, unordered);
    });
    return select(is_nan(unordered) | (best == F32(kInfinity)), F32(kNan), index);
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  float* weights(int64_t column) const { return weights_.get() + column * F32::lanes; }

  // Calls visit(column, perturbed logits of the rows).
  template <class Visit>
  void perturb(const ColumnTensor& x, int64_t row, const Visit& visit) {
    if (!noisy_) {
      for (int64_t j = 0; j < columns_; ++j) visit(j, x.load(j));
      return;
    }
    noise_.set_rows(static_cast<uint32_t>(row_offset_ + row));
    const Functions<F32> f;
    alignas(64) uint32_t words[4 * F32::lanes];
    for (int64_t first = 0; first < columns_; first += 4) {
      noise_.fill(static_cast<uint32_t>(first / 4), words);
      for (int i = 0; i < std::min<int64_t>(4, columns_ - first); ++i) {
        const F32 noise = f.log2(f.exponential(words + i * F32::lanes));
        visit(first + i, fma_exact(noise, F32(-kLn2<float>), x.load(first + i)));
      }
    }
  }

  int64_t columns_, row_offset_;
  ColumnNoise noise_;
  bool noisy_;
  float steepness_;
  Allocation<float> weights_;
  F32 scale_;
};

void soft_columns(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  ColumnWeights weights(tiles, args.noise, finite_inverse<float>(args.tau.value));
  ColumnTensor logits(args.rows, 0, tiles), sample(args.rows, 1, tiles);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    logits.open(row, true);
    sample.open(row, false);
    weights.compute<Want::weights>(logits, nullptr, row);
    for (int64_t j = 0; j < tiles.columns; ++j) sample.store(j, weights.sample(j));
    sample.close();
  }
}

void argmax_columns(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  ColumnWeights weights(tiles, args.noise, 1);
  ColumnTensor logits(args.rows, 0, tiles);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    logits.open(row, true);
    put_rows(weights.argmax(logits, row), logits.rows(), args.indices, row);
  }
}

void hard_columns(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  ColumnWeights weights(tiles, args.noise, 1);
  ColumnTensor logits(args.rows, 0, tiles), sample(args.rows, 1, tiles);
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    logits.open(row, true);
    sample.open(row, false);
    const F32 index = weights.argmax(logits, row), rest = select(index == F32(kNan), F32(NAN), F32(0));
    for (int64_t j = 0; j < tiles.columns; ++j) {
      sample.store(j, select(index == F32(static_cast<float>(j)), F32(1), rest));
    }
    sample.close();
    if (args.indices != nullptr) put_rows(index, logits.rows(), args.indices, row);
  }
}

void recompute_backward_columns(
    const GumbelSoftmaxRecomputeArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  ColumnWeights weights(tiles, args.noise, finite_inverse<float>(args.tau.value));
  ColumnTensor grad(args.rows, 0, tiles), logits(args.rows, 1, tiles), dlogits(args.rows, 2, tiles);
  auto* dtau_rows = static_cast<float*>(args.dtau_rows);
  const F32 inverse_tau(static_cast<float>(finite_inverse<float>(args.tau.value)));
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    grad.open(row, true);
    logits.open(row, true);
    dlogits.open(row, false);
    Sums<F32> sums;
    if (dtau_rows != nullptr) {
      sums = weights.compute<Want::grad_and_tau>(logits, &grad, row);
      // -sum(dlogits * log y) with log y = z ln 2 up to a constant of the row
      const F32 covariance = sums.grad_exponent - sums.grad * sums.exponent;
      put_rows(covariance * F32(-kLn2<float>) * inverse_tau, logits.rows(), dtau_rows, row);
    } else {
      sums = weights.compute<Want::grad>(logits, &grad, row);
    }
    for (int64_t j = 0; j < tiles.columns; ++j) {
      dlogits.store(j, weights.sample(j) * (grad.load(j) - sums.grad) * inverse_tau);
    }
    dlogits.close();
  }
}

void backward_columns(const GumbelSoftmaxBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  ColumnTensor grad(args.rows, 0, tiles), sample(args.rows, 1, tiles), dlogits(args.rows, 2, tiles);
  const F32 inverse_tau(static_cast<float>(finite_inverse<float>(args.tau.value)));
  for (int64_t row = begin * F32::lanes; row < end * F32::lanes; row += F32::lanes) {
    grad.open(row, true);
    sample.open(row, true);
    dlogits.open(row, false);
    Sums<F32> sums[4] = {};
    for (int64_t j = 0; j < tiles.columns; ++j) {
      const F32 y = sample.load(j);
      sums[j % 4].weight = sums[j % 4].weight + y;
      sums[j % 4].grad = fma(y, grad.load(j), sums[j % 4].grad);
    }
    const F32 total = sum_of(sums, &Sums<F32>::weight), dot = sum_of(sums, &Sums<F32>::grad);
    const F32 mean = select(total == F32(0), F32(0), dot / total);
    for (int64_t j = 0; j < tiles.columns; ++j) {
      dlogits.store(j, sample.load(j) * (grad.load(j) - mean) * inverse_tau);
    }
    dlogits.close();
  }
}
