// The search for nearest codes over the SIMD layer. Included once per target by foreach_target.h.

#ifndef DVAE_TARGET  // for an editor
#include "nearest_code/arguments.h"
#include "simd/editor.h"
#endif

#include "nearest_code/cpu_passes.h"
#include "nearest_code/cpu_codes.h"

// Scores one group of rows against one tile of codes; keeps, for each row and lane, the largest score of its codes.
template <class Pass, class Start>
[[gnu::always_inline]] inline void score_tile(
    const typename Pass::Word* x, const typename Pass::Word* codes, int64_t units, const Start& start,
    const TileTerms& terms, typename Pass::Lane* maxima, int64_t stride) {
  using Sums = typename Pass::Sums;
  Sums sums[kRowGroup][kCodeVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kCodeVectors; ++v) {
    const Sums first = start(v);
#pragma GCC unroll 8
    for (int r = 0; r < kRowGroup; ++r) sums[r][v] = first;
  }
  for (int64_t u = 0; u < units; ++u, x += kRowGroup, codes += kCodeVectors * Sums::lanes) {
    Sums c[kCodeVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kCodeVectors; ++v) c[v] = Sums::load(codes + v * Sums::lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRowGroup; ++r) {
      const Sums row = Pass::spread(x[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kCodeVectors; ++v) sums[r][v] = Pass::multiply_add(row, c[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRowGroup; ++r) {
    Sums most = Pass::finish(sums[r][0], terms, 0);
#pragma GCC unroll 4
    for (int v = 1; v < kCodeVectors; ++v) most = max(most, Pass::finish(sums[r][v], terms, v * Sums::lanes));
    most.store(maxima + r * stride);
  }
}

// The search of one thread: tiles of rows, for each the codes in chunks whose words and maxima stay in cache.
template <class Pass, class Scalar>
class NearestSearch {
  using Word = typename Pass::Word;
  using Lane = typename Pass::Lane;
  using Sums = typename Pass::Sums;
  static constexpr bool exact = Pass::kPass == CodePass::doubles;
  static constexpr bool integers = std::is_integral_v<Lane>;
  static constexpr int kMostCandidates = 64;
  static constexpr int kSpan = 64 / Sums::lanes;  // tiles whose lanes are the bits of one word

  // A lane of a tile of codes, by its first code, with the largest score of its codes.
  struct Candidate {
    Lane score;
    int32_t code;
  };
  struct Row {
    const Scalar* x;
    double length;      // at least |x|
    Lane best, margin;  // a code is a candidate if its score exceeds best - margin; margin: twice the error bound
    int candidates;
    bool undecided;  // left to a later pass
  };

 public:
  explicit NearestSearch(const NearestArgs& args)
      : args_(args),
        codes_(*args.codes),
        packed_(*args.packed),
        padded_(padded_columns(codes_.columns)),
        chunk_(chunk_tiles()),
        stride_(chunk_ * Sums::lanes + Sums::lanes),
        x_(allocate<Scalar>(args.x.type == storage_of<Scalar> ? 0 : args.tile_rows * codes_.columns)),
        centred_(allocate<float>(exact ? 0 : args.tile_rows * padded_)),
        words_(allocate<Word>(args.tile_rows * packed_.units)),
        maxima_(allocate<Lane>(kRowGroup * stride_)),
        spans_(allocate<Lane>((chunk_ / kSpan + 1) * Sums::lanes)),
        starts_(allocate<int32_t>(integers ? chunk_ * packed_.tile : 0)),
        candidates_(allocate<Candidate>(args.tile_rows * kMostCandidates)),
        rows_(allocate<Row>(args.tile_rows)) {}

  ~NearestSearch() {
    *args_.rescored_rows += rescored_rows_;
    *args_.rescored_blocks += rescored_blocks_;
  }

  void run(int64_t tile) {
    const int64_t first = tile * args_.tile_rows;
    const int64_t count = std::min(args_.tile_rows, args_.count - first);
    load(first, count);
    pack(count);
    for (int64_t chunk = 0; chunk < packed_.tiles; chunk += chunk_) {
      const int64_t tiles = std::min(chunk_, packed_.tiles - chunk);
      if constexpr (integers) set_starts(chunk * packed_.tile, tiles * packed_.tile);
      for (int64_t group = 0; group < count; group += kRowGroup) {
        score(group, chunk, tiles);
        for (int64_t r = group; r < std::min(group + kRowGroup, count); ++r) {
          if (!rows_[r].undecided) collect(r, chunk, tiles);
        }
      }
    }
    for (int64_t r = 0; r < count; ++r) decide(r, first + r);
  }

 private:
  // Tiles of codes whose words stay in the second-level cache, and whose maxima for a group of rows in the first.
  int64_t chunk_tiles() const {
    constexpr int64_t words = 384 << 10, maxima = 48 << 10;
    const int64_t tile = packed_.units * packed_.tile * static_cast<int64_t>(sizeof(Word));
    constexpr int64_t most = maxima / (kRowGroup * Sums::lanes * static_cast<int64_t>(sizeof(Lane)));
    return std::min(std::clamp<int64_t>(words / tile, 1, most), packed_.tiles);
  }

  int64_t number(int64_t i) const { return args_.rows ? args_.rows[i] : i; }

  // The row where it lies, or its copy in the compute dtype.
  const Scalar* row_values(int64_t r, int64_t row) {
    const Scalar* x = nullptr;
    visit<Scalar>(args_.x.type, [&](auto storage) {
      using T = decltype(storage);
      const T* from = static_cast<const T*>(args_.x.data) + row * args_.stride;
      if constexpr (std::is_same_v<T, Scalar>) {
        x = from;
      } else {
        Scalar* const to = x_.get() + r * codes_.columns;
        int64_t d = 0;
        for (; d + F32::lanes <= codes_.columns; d += F32::lanes) F32::load(from + d).store(to + d);
        for (; d < codes_.columns; ++d) to[d] = load_as_compute(from[d]);
        x = to;
      }
    });
    return x;
  }

  void load(int64_t first, int64_t count) {
    for (int64_t r = 0; r < count; ++r) rows_[r] = {row_values(r, number(first + r)), 0, lowest(), 0, 0, false};
  }

  static constexpr Lane lowest() {
    if constexpr (integers) return std::numeric_limits<Lane>::lowest();
    else return kMinusInfinity<Lane>;
  }
  Word* words_of(int64_t r) { return words_.get() + r / kRowGroup * packed_.units * kRowGroup + r % kRowGroup; }

  // Packs rows into words. A row that is not finite, or overflows once centred, stays undecided.
  void pack(int64_t count) {
    if constexpr (exact) {
      for (int64_t r = 0; r < count; ++r) {
        const double square = quick_dot(rows_[r].x, rows_[r].x, codes_.columns);
        rows_[r].undecided = !is_finite(rows_[r].x);
        rows_[r].length = std::min(std::sqrt(square), kLargest<double>);  // times codes of zeros: zero, not NaN
        for (int64_t d = 0; d < packed_.units; ++d) words_of(r)[d * kRowGroup] = rows_[r].undecided ? 0 : rows_[r].x[d];
      }
    } else {
      Amax tile;
      for (int64_t r = 0; r < count; ++r) centre(r, &tile);
      float amax = tile.value();
      if (!(amax <= kLargest<float>)) {
        amax = 0;
        for (int64_t r = 0; r < count; ++r) {
          Amax row;
          centre(r, &row);
          rows_[r].undecided = !(row.value() <= kLargest<float>);
          if (!rows_[r].undecided) amax = std::max(amax, row.value());
        }
      }
      set_scale(amax);
      for (int64_t r = 0; r < count; ++r) pack_row(r);
    }
    for (int64_t r = count; r % kRowGroup != 0; ++r) clear_words(r);
  }

  bool is_finite(const Scalar* x) const {
    return std::all_of(x, x + codes_.columns, [](Scalar value) { return value - value == 0; });
  }

  void clear_words(int64_t r) {
    for (int64_t u = 0; u < packed_.units; ++u) words_of(r)[u * kRowGroup] = 0;
  }

  // The largest absolute value, NaN where a value is not finite.
  struct Amax {
    F32 most, rest;
    Amax() : most(0.0f), rest(0.0f) {}
    void add(F32 x) {
      most = max(most, max(x, F32(0.0f) - x));
      rest = rest + (x - x);
    }
    float value() const { return reduce_max(most) + reduce_add(rest); }
  };

  // x less its centre, then zeros up to whole vectors.
  void centre(int64_t r, Amax* amax) {
    const float* x = rows_[r].x;
    float* const to = centred_.get() + r * padded_;
    const auto centre_vector = [&](const float* from, int64_t d) {
      const F32 value = F32::load(from) - F32::load(codes_.row_centre + d);
      value.store(to + d);
      amax->add(value);
    };
    int64_t d = 0;
    for (; d + F32::lanes <= codes_.columns; d += F32::lanes) centre_vector(x + d, d);
    if (d < padded_) {
      float tail[16] = {};
      std::copy(x + d, x + codes_.columns, tail);
      for (int64_t i = 0; d < padded_; i += F32::lanes, d += F32::lanes) centre_vector(tail + i, d);
    }
  }

  // The scale of the rows of this tile; for integers, the finest one that keeps words and sums in range.
  void set_scale(float amax) {
    CodeBounds<double> bounds = packed_.bounds;
    PassArithmetic arithmetic = kFloatPass;
    scale_ = packed_.scale;
    unit_ = double{scale_} * scale_;
    double bounded = 1;  // a row's packed value in the bounds' scale
    if constexpr (integers) {
      // bytes bound the values; shorts bound the norm, since their products are summed in 32 bits
      const auto columns = static_cast<float>(codes_.columns);
      const float finest = Pass::kPass == CodePass::bytes ? amax / 127 : amax * std::sqrt(columns) / 32700;
      const auto coarsest = static_cast<float>(packed_.scale * (packed_.largest_start * 0x1p-29));
      scale_ = std::max({finest, coarsest, 0x1p-100f});
      unit_ = double{scale_} * packed_.scale;
      bounds.half_error += unit_ + 0x1p-22 * bounds.half;
      arithmetic = {0, 0};
      bounded = scale_;
      start_factor_ = std::min(packed_.scale / scale_, kLargest<float>);  // finite: times a start of zero it is zero
    }
    // twice the error in the unit of the scores: a constant, and parts in proportion to the row's norm and error
    const double factor = 2 * (1 + 0x1p-20) / (integers ? unit_ : 1);
    const ScoreError<double> error(bounds, arithmetic, codes_.columns);
    margin_ = factor * error.constant;
    margin_of_norm_ = factor * bounded * error.of_norm;
    margin_of_error_ = factor * bounded * error.of_error;
    true_norm_ = integers ? scale_ : double{scale_} * bounded;
    row_centre_ = packed_.bounds.row_centre * (integers ? 1 : double{scale_});
  }

  void pack_row(int64_t r) {
    constexpr int shift = Pass::kPass == CodePass::bytes ? 128 : 0;
    Row& row = rows_[r];
    if (row.undecided) return clear_words(r);
    const Packed packed =
        Pass::pack(centred_.get() + r * padded_, codes_.columns, 1 / scale_, shift, words_of(r), kRowGroup);
    // with the rounding of these sums, of subtracting the centre and of scaling
    const float slack = 1 + 0x1p-21f * static_cast<float>(codes_.columns + 16);
    const float norm = std::sqrt(packed.square) * slack + 0x1p-60f * static_cast<float>(codes_.columns);
    const float error = std::sqrt(packed.error) * slack + (integers ? 0x1p-21f : 0x1p-23f) * norm;
    const double margin = margin_ + margin_of_norm_ * norm + margin_of_error_ * error;
    constexpr double limit = integers ? 0x1p29 : 0x1p100;
    row.undecided = !(margin < limit);
    row.length = norm * true_norm_ + row_centre_;
    row.margin = row.undecided ? 0 : static_cast<Lane>(integers ? margin + 1 : margin);
  }

  void score(int64_t group, int64_t chunk, int64_t tiles) {
    const int64_t first = chunk * packed_.tile;
    const Word* words = static_cast<const Word*>(packed_.words) + first * packed_.units;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t code = t * packed_.tile;
      const auto start = [&](int v) {
        const int64_t k = code + v * Sums::lanes;
        if constexpr (integers) return Sums::load(starts_.get() + k);
        else if constexpr (exact) return Sums(0.0);
        else return Sums::load(packed_.starts + first + k);
      };
      score_tile<Pass>(
          words_of(group), words + code * packed_.units, packed_.units, start,
          {packed_.scales + first + code, packed_.offsets + first + code}, maxima_.get() + t * Sums::lanes, stride_);
    }
  }

  void set_starts(int64_t first, int64_t count) {
#if DVAE_SIMD_AVX512
    for (int64_t k = 0; k < count; k += I32::lanes) {
      // -infinity becomes the lowest integer
      const I32 start = to_integers(F32::load(packed_.starts + first + k) * F32(start_factor_));
      const I32 shift = shift_left<7>(I32::load(packed_.sums + first + k));
      (Pass::kPass == CodePass::bytes ? start - shift : start).store(starts_.get() + k);
    }
#endif
  }

  // A candidate's score exceeds this one.
  static Lane below(Lane best, Lane margin) {
    if constexpr (integers) {
      return static_cast<Lane>(std::max<int64_t>(int64_t{best} - margin - 1, std::numeric_limits<Lane>::lowest()));
    } else {
      return std::nextafter(best - margin, kMinusInfinity<Lane>);
    }
  }

  // Adds the candidates of a chunk of codes to those of a row.
  void collect(int64_t r, int64_t chunk, int64_t tiles) {
    Row& row = rows_[r];
    Candidate* const found = candidates_.get() + r * kMostCandidates;
    const Lane* maxima = maxima_.get() + r % kRowGroup * stride_;
    Sums top = Sums::load(maxima);
    for (int64_t t = 0; t < tiles; t += kSpan) {
      Sums span = Sums::load(maxima + t * Sums::lanes);
      if (t + kSpan <= tiles) {
#pragma GCC unroll 16
        for (int i = 1; i < kSpan; ++i) span = max(span, Sums::load(maxima + (t + i) * Sums::lanes));
      } else {
        for (int64_t i = t + 1; i < tiles; ++i) span = max(span, Sums::load(maxima + i * Sums::lanes));
      }
      span.store(spans_.get() + t / kSpan * Sums::lanes);
      top = max(top, span);
    }
    const Lane most = reduce_max(top);
    if (most == lowest()) return;
    if (most > row.best) {
      row.best = most;
      const Lane limit = below(row.best, row.margin);
      const auto is_out = [&](const Candidate& c) { return !(c.score > limit); };
      row.candidates = static_cast<int>(std::remove_if(found, found + row.candidates, is_out) - found);
    }
    const Lane limit = below(row.best, row.margin);
    if (!(most > limit)) return;
    for (int64_t t = 0; t < tiles; t += kSpan) {
      if (lanes_above(Sums::load(spans_.get() + t / kSpan * Sums::lanes), limit) == 0) continue;
      uint64_t above = 0;
      for (int64_t i = t; i < std::min(t + kSpan, tiles); ++i) {
        above |= uint64_t{lanes_above(Sums::load(maxima + i * Sums::lanes), limit)} << (i - t) * Sums::lanes;
      }
      for (; above != 0; above &= above - 1) {
        if (row.candidates == kMostCandidates) {
          row.undecided = !exact;  // an exact pass drops only scores equal to the best one, of higher indices
          return;
        }
        const int64_t place = t * Sums::lanes + __builtin_ctzll(above), tile = place / Sums::lanes;
        const int64_t code = (chunk + tile) * packed_.tile + place % Sums::lanes;
        found[row.candidates++] = {maxima[place], static_cast<int32_t>(code)};
      }
    }
  }

  void decide(int64_t r, int64_t i) {
    Row& row = rows_[r];
    const int64_t to = number(i);
    const bool finite = !row.undecided || is_finite(row.x);
    args_.undecided[i] = row.undecided && finite;
    rescored_rows_ += args_.undecided[i] || row.candidates > 1;
    if (args_.undecided[i]) {
      rescored_blocks_ += packed_.tiles * Sums::lanes;
      return;
    }
    int64_t nearest = -1;
    double score = kNaN<double>;
    if (finite) nearest = choose(r, &score);
    args_.indices[to] = std::max<int64_t>(nearest, 0);
    if (args_.scores) static_cast<Scalar*>(args_.scores)[to] = static_cast<Scalar>(score);
  }

  // The nearest of the candidates' codes, or -1. Float64 sums in any order mostly leave one code; only near ties are
  // scored in the definition's order.
  int64_t choose(int64_t r, double* score) {
    const Row& row = rows_[r];
    Candidate* const found = candidates_.get() + r * kMostCandidates;
    const auto* values = static_cast<const Scalar*>(codes_.values.data);
    const int64_t columns = codes_.columns;
    const auto code_of = [&](int c, int v) { return int64_t{found[c].code} + v * Sums::lanes; };
    const double norm = args_.largest_length, slack = 0x1p-50 * (columns + 8) * (row.length * norm + norm * norm);
    // from the best score on, a candidate has a chance only if its score could be that high
    double floor = 0;  // a lower bound of this pass's scores less the definition's
    if (!exact && row.candidates > 1) {
      const auto is_better_candidate = [](const Candidate& a, const Candidate& b) { return a.score > b.score; };
      std::sort(found, found + row.candidates, is_better_candidate);
      floor = codes_.half_centre - quick_dot(row.x, codes_.centre, columns) - slack;
    }
    double quick[kMostCandidates][kCodeVectors], most = kMinusInfinity<double>;
    int scored = 0;
    for (; scored < row.candidates; ++scored) {
      if (!exact && (found[scored].score + row.margin * 0.5) * unit_ < most + floor) break;
      const Scalar* code[kCodeVectors];
      for (int v = 0; v < kCodeVectors; ++v) {
        code[v] = values + std::min(code_of(scored, v), codes_.count - 1) * columns;
      }
      // each as soon as it is known: reading four of them back as a vector would wait for their stores
      quick_dots(row.x, code, columns, [&](int v, double dot) {
        double score_of_code = code_score(dot, codes_.terms[code_of(scored, v)]);
        if constexpr (std::is_same_v<Scalar, double>) {  // products of float32 do not overflow in float64
          score_of_code = score_of_code <= kLargest<double> ? score_of_code : kMinusInfinity<double>;
        }
        quick[scored][v] = score_of_code;
        most = score_of_code > most ? score_of_code : most;
      });
    }
    rescored_blocks_ += scored;
    int64_t close[kMostCandidates * kCodeVectors + 1];
    int count = 0;
    for (int c = 0; c < scored; ++c) {
      for (int v = 0; v < kCodeVectors; ++v) {
        const int64_t code = code_of(c, v);
        close[count] = code;
        // without a branch, which would be mispredicted; an infinite slack admits the lanes behind the last code too
        count += (quick[c][v] >= most - slack) & (code < codes_.count);
      }
    }
    if (count == 1 && !args_.scores) return close[0];
    int64_t nearest = -1;
    for (int i = 0; i < count; ++i) {
      const int64_t k = close[i];
      const double dot = ordered_dot(row.x, 1, values + k * columns, 1, columns);
      const double now = code_score(dot, codes_.terms[k]);
      if (!is_better(now, k, *score, nearest)) continue;
      *score = now;
      nearest = k;
    }
    return nearest;
  }

  const NearestArgs& args_;
  const Codes& codes_;
  const PackedCodes& packed_;
  int64_t padded_, chunk_, stride_;
  Allocation<Scalar> x_;      // [tile rows, columns], where x has another dtype
  Allocation<float> centred_;  // [tile rows, padded columns]
  Allocation<Word> words_;    // [tile rows / kRowGroup, units, kRowGroup]
  Allocation<Lane> maxima_;   // [kRowGroup, stride]
  Allocation<Lane> spans_;    // [chunk / kSpan, lanes]: the largest of a span's tiles
  Allocation<int32_t> starts_;
  Allocation<Candidate> candidates_;
  Allocation<Row> rows_;
  int64_t rescored_rows_ = 0, rescored_blocks_ = 0;
  float scale_ = 1, start_factor_ = 1;
  double unit_ = 1;  // value of one in the scores of the pass
  double margin_ = 0, margin_of_norm_ = 0, margin_of_error_ = 0, true_norm_ = 0, row_centre_ = 0;
};

template <class Pass, class Scalar>
void search_as(const NearestArgs& args, int64_t begin, int64_t end) {
  NearestSearch<Pass, Scalar> search(args);
  for (int64_t tile = begin; tile < end; ++tile) search.run(tile);
}

// Searches for tiles [begin, end) of rows.
inline void search_rows(const NearestArgs& args, int64_t begin, int64_t end) {
  switch (args.packed->pass) {
#if DVAE_SIMD_AVX512
    case CodePass::bytes: return search_as<BytePass, float>(args, begin, end);
    case CodePass::shorts: return search_as<ShortPass, float>(args, begin, end);
#endif
    case CodePass::doubles:
      return args.codes->values.type == Storage::float64 ? search_as<DoublePass, double>(args, begin, end)
                                                         : search_as<DoublePass, float>(args, begin, end);
    default: return search_as<FloatPass, float>(args, begin, end);
  }
}
