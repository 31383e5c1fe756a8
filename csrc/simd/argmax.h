// The index-only sample of a row: the column of the largest perturbed logit.

template <class F>
class RowArgmax {
 public:
  using Scalar = typename F::Scalar;

  RowArgmax(const RowTiles& tiles, NoiseKey key) : chunks_(tiles), noise_(key), bests_(chunks_.count()) {}

  // The column of the largest perturbed logit, the lowest of equals; kNone where all are -inf, kNan in a row with
  // NaN or +inf. Calls meanwhile(begin, end) for all columns, piece by piece, while integers are drawn.
  template <class Meanwhile = Nothing>
  int64_t compute(const Scalar* x, uint32_t row, const Meanwhile& meanwhile = {}) {
    noise_.set_row(row);
    std::fill(bests_.begin(), bests_.end(), Best());
    chunks_.for_ranges([&](int64_t begin, int64_t end) {
      Best best;  // carried on, so that later chunks have a high mark to pass
      for (int64_t c = begin; c < end; ++c) best = find_better(c, x, best, meanwhile);
      bests_[begin] = best;
    });
    Best best;
    for (const Best& other : bests_) {
      if (other.index == kNan) return kNan;
      if (other.p > best.p) best = other;
    }
    return best.index;
  }

 private:
  static constexpr int kStep = RowChunks<F>::kStep;

  struct Best {
    Scalar p = -std::numeric_limits<Scalar>::infinity();
    int64_t index = kNone;
  };

  // The better of `best` and the chunk's largest. Perturbed logits are computed only in the steps whose bound passes
  // the best so far: few in a long row.
  template <class Meanwhile>
  Best find_better(int64_t c, const Scalar* row, Best best, const Meanwhile& meanwhile) {
    constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
    const ChunkOf<F> x(row + c * kChunk, chunks_.size(c), -infinity);
    alignas(64) uint32_t bits[kChunk];
    alignas(64) Scalar bounds[kChunk / 4];  // a vector a step: the largest in each lane
    const Functions<F> f;
    F largest(-infinity);
    auto unordered = is_nan(largest);
    noise_.fill(static_cast<uint32_t>(c * kChunk / 4), bits, x.size, [&](int begin, int end) {
      for (int first = begin; first < std::min(end, x.size); first += kStep) {
        const Scalar* logits = x.step(first);
        F v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) v[i] = F::load(logits + i * F::lanes);
        unordered = unordered | either_nan(v[0], v[1]) | either_nan(v[2], v[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) v[i] = v[i] + f.minus_log_bound(bits + first + i * F::lanes);
        const F bound = max(max(v[0], v[1]), max(v[2], v[3]));
        bound.store(bounds + first / 4);
        largest = max(largest, bound);
      }
      meanwhile(c * kChunk + begin, c * kChunk + end);
    });
    if (unordered.any()) best.index = kNan;
    if (best.index == kNan) return best;

    // rounding of large logits may lift a perturbed logit above its bound, relatively
    const auto can_win = [&](F bound) { return (bound > F(best.p - std::abs(best.p) * Scalar(1e-6))).any(); };
    const auto visit = [&](int first) {
      best = better_of_step(f, x.step(first), bits + first, c * kChunk + first, best);
    };
    if (!can_win(largest)) return best;
    // the largest bound is most often the winner's: hardly any other step can then win
    const F top(reduce_max(largest));
    int likely = 0;
    while (!(F::load(bounds + likely / 4) == top).any()) likely += kStep;
    visit(likely);
    for (int first = 0; first < x.size; first += kStep) {
      if (first != likely && can_win(F::load(bounds + first / 4))) visit(first);
    }
    if (best.p == infinity) best.index = kNan;
    return best;
  }

  Best better_of_step(const Functions<F>& f, const Scalar* x, const uint32_t* bits, int64_t first, Best best) const {
    F p[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) p[i] = perturbed(f, x + i * F::lanes, bits + i * F::lanes);
    const Scalar top = reduce_max(max(max(p[0], p[1]), max(p[2], p[3])));
    if (top < best.p) return best;
    int64_t index = first;
    int i = 0;
    for (; !(p[i] == F(top)).any(); ++i) index += F::lanes;
    index += first_lane(p[i] == F(top));
    return top > best.p || index < best.index ? Best{top, index} : best;
  }

  RowChunks<F> chunks_;
  RowNoise noise_;
  std::vector<Best> bests_;  // by chunk, of which the first of each range is used
};
