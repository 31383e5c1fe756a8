// How a row is worked on: in chunks whose integers and exponents stay in the first-level cache, the chunks in steps of
// four vectors.

constexpr int kChunk = kRowChunk;
constexpr int64_t kChunksPerRange = kRowRange / kChunk;

// What to call with the columns [begin, end) of a piece where there is nothing to do meanwhile.
struct Nothing {
  void operator()(int64_t, int64_t) const {}
};

// Perturbed logits l - ln(E'), E' the exponential noise over ln 2 (a constant of the row cancels).
template <class F>
F perturbed(const Functions<F>& f, const typename F::Scalar* logits, const uint32_t* bits) {
  return fma_exact(f.log2(f.exponential(bits)), F(-kLn2<typename F::Scalar>), F::load(logits));
}

template <class F>
class RowChunks {
 public:
  using Scalar = typename F::Scalar;
  static constexpr int kStep = 4 * F::lanes;

  explicit RowChunks(const RowTiles& tiles)
      : columns_(tiles.columns), count_((columns_ + kChunk - 1) / kChunk), parallel_for_(tiles.parallel_for) {}

  int64_t columns() const { return columns_; }
  int64_t count() const { return count_; }
  int size(int64_t chunk) const { return static_cast<int>(std::min<int64_t>(kChunk, columns_ - chunk * kChunk)); }

  // Whether threads may share a row.
  bool shared() const { return count_ >= 2 * kChunksPerRange; }

  // Calls run(begin, end) for ranges of chunks. A wide row is shared out to threads where rows are too few to go round;
  // inside a parallel region this is one range.
  template <class Run>
  void for_ranges(const Run& run) const {
    if (!shared()) {
      run(0, count_);
    } else {
      const auto run_and_fence = [&](int64_t begin, int64_t end) {
        run(begin, end);
        fence_streams();  // of the thread that wrote
      };
      parallel_for_(count_, kChunksPerRange, RangeBody(run_and_fence));
    }
  }
  template <class Run>
  void for_each(const Run& run) const {
    for_ranges([&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) run(c);
    });
  }

 private:
  int64_t columns_, count_;
  ParallelFor parallel_for_;
};

// A chunk of a tensor's row by steps, the last of which is a copy filled up with `fill` where it is not whole.
template <class F>
class ChunkOf {
 public:
  using Scalar = typename F::Scalar;
  static constexpr int kStep = RowChunks<F>::kStep;
  const int size;  // whole steps

  ChunkOf(const Scalar* data, int n, Scalar fill)
      : size((n + kStep - 1) / kStep * kStep), data_(data), whole_(n / kStep * kStep) {
    if (n == whole_) return;
    std::memcpy(last_, data + whole_, (n - whole_) * sizeof(Scalar));
    std::fill(last_ + (n - whole_), last_ + kStep, fill);
  }
  const Scalar* step(int first) const { return first < whole_ ? data_ + first : last_; }

 private:
  alignas(64) Scalar last_[kStep];
  const Scalar* data_;
  int whole_;
};
