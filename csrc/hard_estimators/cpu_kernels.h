// The gradients of ReinMax and Gumbel-Rao, written once over the SIMD layer: along the row, one row after the
// other, in chunks.

#ifndef DVAE_TARGET  // for an editor
#include "hard_estimators/arguments.h"
#include "simd/editor.h"
#endif

// What ReinMax gives to every column, before the chosen one gets its own part (see README.md):
//   pi_tau (g - mean of the mixture) - pi (g - mean of pi) / 2
template <class F>
struct ReinmaxGradient {
  const typename F::Scalar* g;
  const RowWeights<F>* plain;  // of pi
  F mixture_mean, plain_mean;

  template <class Count>
  F operator()(int64_t j, Count count, F w, F scale) const {
    const F gj = load_lanes<F>(g + j, count);
    return w * scale * (gj - mixture_mean) - F(0.5) * plain->sample(j) * (gj - plain_mean);
  }
};

template <class F>
void reinmax_rows(const ReinmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const double inverse_tau = finite_inverse<Scalar>(args.tau.value);
  RowWeights<F> tempered(tiles, KeyWords(), inverse_tau);
  std::optional<RowWeights<F>> untempered;
  if (inverse_tau != 1) untempered.emplace(tiles, KeyWords(), 1.0);
  RowTensor<F> grad(args.rows, 0, tiles), logits(args.rows, 1, tiles), dlogits(args.rows, 2, tiles);
  const auto run = [&](int64_t row, int i) {
    const Scalar *x = logits.row(i), *g = grad.row(i);
    const int64_t index = args.indices[row];
    const double tempered_mean = tempered.template compute<Want::grad>(x, g, 0).grad;
    const double plain_mean = untempered ? untempered->template compute<Want::grad>(x, g, 0).grad : tempered_mean;
    const double mixture_mean = index >= 0 ? (tempered_mean + double{g[index]}) / 2 : 0;
    tempered.write(dlogits.writer(i, tiles), ReinmaxGradient<F>{
                                                 g, untempered ? &*untempered : &tempered,
                                                 F(static_cast<Scalar>(mixture_mean)),
                                                 F(static_cast<Scalar>(plain_mean))});
    if (index >= 0) dlogits.row(i)[index] += static_cast<Scalar>(g[index] - mixture_mean);
  };
  for_rows<1>(tiles, begin, end, run, grad, logits, dlogits);
  if (tiles.stream) fence_streams();
}

// The weights of a sample that is drawn again given its largest column i, relative to that one's: with E' the
// exponential noise over ln 2 and d = -log2 softmax(l),
//   2^((log2 E'_i - log2(E'_i + E'_j 2^d_j)) / tau), and 1 for i itself.
template <class F>
class ConditionalWeights {
 public:
  using Scalar = typename F::Scalar;

  ConditionalWeights(const RowTiles& tiles, NoiseKey key, double inverse_tau)
      : chunks_(tiles),
        key_(key),
        noise_(key),
        inverse_tau_(static_cast<Scalar>(inverse_tau)),
        weights_(allocate<Scalar>(chunks_.count() * kChunk)),
        total_(allocate<Scalar>(chunks_.count() * kChunk)),
        sums_(chunks_.count()) {}

  // Calls finish(column, count, sum over the draws of J_y g) for the vectors of a row and writes what it gives. `level`
  // is the logarithm of the sum of e^l, `index` the row's largest column.
  template <class Finish>
  void write(
      const Scalar* x, const Scalar* g, uint32_t row, int64_t index, Scalar level, int64_t draws,
      const RowWriter<F>& to, const Finish& finish) {
    std::fill(total_.get(), total_.get() + chunks_.count() * kChunk, Scalar(0));
    for (int64_t draw = 1; draw <= draws; ++draw) add_draw(x, g, row, static_cast<uint32_t>(draw), index, level);
    const Scalar* total = total_.get();
    chunks_.for_each([&](int64_t c) {
      to.put(c * kChunk, c * kChunk + chunks_.size(c), [=](int64_t j, auto) { return finish(F::load(total + j)); });
    });
  }

 private:
  static constexpr int kStep = RowChunks<F>::kStep;

  void add_draw(const Scalar* x, const Scalar* g, uint32_t row, uint32_t draw, int64_t index, Scalar level) {
    noise_.set_row(row, draw);
    const Functions<F> f;
    const auto group = static_cast<uint32_t>(index / 4);
    alignas(64) uint32_t own_bits[F::lanes];
    std::fill(own_bits, own_bits + F::lanes, row_words(key_.key, key_.offset, row, group, draw).word[index % 4]);
    const F own = f.exponential(own_bits), own_log = f.log2(own);
    chunks_.for_each([&](int64_t c) { sums_[c] = weigh(c, x, g, own, own_log, F(level)); });

    double weight = 0, weighted = 0;
    for (const Sums<Scalar>& sums : sums_) {
      weight += sums.weight;
      weighted += sums.grad;
    }
    const double correction = 1 - double{weights_[index]};
    weights_[index] = 1;
    weight += correction;
    weighted += correction * double{g[index]};
    const F scale(static_cast<Scalar>(1 / weight)), mean(static_cast<Scalar>(weighted / weight));
    Scalar* total = total_.get();
    const Scalar* weights = weights_.get();
    chunks_.for_each([&](int64_t c) {
      for_vectors<F>(c * kChunk, c * kChunk + chunks_.size(c), [=](int64_t j, auto count) {
        const F part = F::load(weights + j) * scale * (load_lanes<F>(g + j, count) - mean);
        (F::load(total + j) + part).store(total + j);
      });
    });
  }

  Sums<Scalar> weigh(int64_t c, const Scalar* row, const Scalar* grad, F own, F own_log, F level) {
    const int64_t start = c * kChunk;
    const ChunkOf<F> x(row + start, chunks_.size(c), -std::numeric_limits<Scalar>::infinity());
    const ChunkOf<F> g(grad + start, chunks_.size(c), 0);
    alignas(64) uint32_t bits[kChunk];
    noise_.fill(static_cast<uint32_t>(start / 4), bits, x.size, [&](int begin, int end) {
      prefetch_columns(row + start, begin, end);
      prefetch_columns(grad + start, begin, end);
    });
    const Functions<F> f;
    const F inverse_tau(inverse_tau_), limit(kLimit);
    Scalar* weights = weights_.get() + start;
    Sums<F> sums[4] = {};
    for (int first = 0; first < x.size; first += kStep) {
      const Scalar *logits = x.step(first), *grads = g.step(first);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int j = first + i * F::lanes;
        const F deficit = (level - F::load(logits + i * F::lanes)) * F(kLog2e<Scalar>);
        // beyond the limit E'_i no longer counts, and the power would overflow
        const F bounded = exp2(min(deficit, limit)), rest = max(deficit - limit, F(0));
        const F log = f.log2(fma(f.exponential(bits + j), bounded, own)) + rest;
        const F w = exp2((own_log - log) * inverse_tau);
        w.store(weights + j);
        add<Want::grad>(w, w, F::load(grads + i * F::lanes), &sums[i]);
      }
    }
    return {reduce_add(sum_of(sums, &Sums<F>::weight)), reduce_add(sum_of(sums, &Sums<F>::grad)), 0, 0};
  }

  static constexpr Scalar kLimit = 87;

  RowChunks<F> chunks_;
  NoiseKey key_;
  RowNoise noise_;
  Scalar inverse_tau_;
  Allocation<Scalar> weights_, total_;
  std::vector<Sums<Scalar>> sums_;  // by chunk
};

template <class F>
void gumbel_rao_rows(const GumbelRaoArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = tiles.columns;
  const double inverse_tau = finite_inverse<Scalar>(args.tau.value);
  RowWeights<F> plain(tiles, KeyWords(), 1);
  ConditionalWeights<F> weights(tiles, args.noise.key.read(), inverse_tau);
  RowTensor<F> grad(args.rows, 0, tiles), logits(args.rows, 1, tiles), dlogits(args.rows, 2, tiles);
  const F scale(static_cast<Scalar>(inverse_tau / static_cast<double>(args.draws)));
  const auto run = [&](int64_t row, int i) {
    const Scalar *x = logits.row(i), *g = grad.row(i);
    const int64_t index = args.indices[row];
    const RowWriter<F> writer = dlogits.writer(i, tiles);
    if (index < 0) {
      const F rest(index == kNan ? std::numeric_limits<Scalar>::quiet_NaN() : 0);
      return writer.put(0, columns, [=](int64_t, auto) { return rest; });
    }
    plain.template compute<Want::weights>(x, nullptr, 0);
    const auto level = static_cast<Scalar>(plain.log2_total() * kLn2<double>);
    const auto number = static_cast<uint32_t>(args.noise.row_offset + row);
    weights.write(x, g, number, index, level, args.draws, writer, [=](F total) { return total * scale; });
  };
  for_rows<1>(tiles, begin, end, run, grad, logits, dlogits);
  if (tiles.stream) fence_streams();
}

// The entries, by compute type.

void reinmax_bwd(const ReinmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  tiles.doubles ? reinmax_rows<F64>(args, tiles, begin, end) : reinmax_rows<F32>(args, tiles, begin, end);
}

void gumbel_rao_bwd(const GumbelRaoArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  tiles.doubles ? gumbel_rao_rows<F64>(args, tiles, begin, end) : gumbel_rao_rows<F32>(args, tiles, begin, end);
}
