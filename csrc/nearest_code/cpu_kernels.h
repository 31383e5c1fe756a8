// The search for nearest codes over the SIMD layer. Included once per target by for_each_target.h.

#include "nearest_code/cpu_passes.h"
#include "nearest_code/cpu_codes.h"

// One group of rows against one tile of codes: for each row, the largest score of the codes in every lane.
template <class Pass, class Start>
[[gnu::always_inline]] inline void score_tile(
    const typename Pass::Word* x, const typename Pass::Word* codes, int64_t units, const Start& start,
    const TileEnd& end, typename Pass::Lane* maxima, int64_t stride) {
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
    Sums most = Pass::finish(sums[r][0], end, 0);
#pragma GCC unroll 4
    for (int v = 1; v < kCodeVectors; ++v) most = max(most, Pass::finish(sums[r][v], end, v * Sums::lanes));
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

  // A lane of a tile of codes, by its first code, with the largest score of its codes.
  struct Candidate {
    Lane score;
    int32_t code;
  };
  struct Row {
    const Scalar* x;
    double length;      // at least |x|
    Lane best, margin;  // what is left of the best score after twice the error has a chance
    int candidates;
    bool finite, open;
  };

 public:
  explicit NearestSearch(const NearestArgs& args)
      : args_(args),
        codes_(*args.codes),
        packed_(*args.packed),
        padded_(padded_columns(codes_.columns)),
        chunk_(chunk_tiles()),
        stride_(chunk_ * Sums::lanes + Sums::lanes),
        x_(allocate<Scalar>(args.tile_rows * padded_)),
        line_(allocate<float>(padded_)),
        words_(allocate<Word>(args.tile_rows * packed_.units)),
        maxima_(allocate<Lane>(args.tile_rows * stride_)),
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
      score(chunk, tiles, count);
      for (int64_t r = 0; r < count; ++r) {
        if (!rows_[r].open) collect(r, chunk, tiles);
      }
    }
    for (int64_t r = 0; r < count; ++r) decide(r, first + r);
  }

 private:
  // Tiles of codes whose words stay in the second-level cache beside the maxima.
  int64_t chunk_tiles() const {
    constexpr int64_t cache = 512 << 10;
    const int64_t tile = packed_.units * packed_.tile * static_cast<int64_t>(sizeof(Word)) +
                         args_.tile_rows * Sums::lanes * static_cast<int64_t>(sizeof(Lane));
    return std::clamp<int64_t>(cache / tile, 1, packed_.tiles);
  }

  int64_t number(int64_t i) const { return args_.rows ? args_.rows[i] : i; }

  template <class T>
  void load_as(int64_t row, Scalar* to) const {
    const T* from = static_cast<const T*>(args_.x.data) + row * args_.stride;
    int64_t d = 0;
    if constexpr (std::is_same_v<Scalar, float>) {
      for (; d + F32::lanes <= codes_.columns; d += F32::lanes) F32::load(from + d).store(to + d);
    }
    for (; d < codes_.columns; ++d) to[d] = load_as_compute(from[d]);
    std::fill(to + codes_.columns, to + padded_, Scalar(0));
  }

  void load(int64_t first, int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      Scalar* x = x_.get() + r * padded_;
      with_storage<Scalar>(args_.x.type, [&](auto storage) { load_as<decltype(storage)>(number(first + r), x); });
      Doubles rest(0.0);
      for (int64_t d = 0; d < padded_; d += Doubles::lanes) {
        const Doubles value = Doubles::load(x + d);
        rest = rest + (value - value);
      }
      const bool finite = reduce_add(rest) == 0;
      rows_[r] = {x, 0, lowest(), 0, 0, finite, !finite};
    }
  }

  static constexpr Lane lowest() {
    if constexpr (integers) return std::numeric_limits<Lane>::lowest();
    else return kMinusInfinity<Lane>;
  }
  Word* words_of(int64_t r) { return words_.get() + r / kRowGroup * packed_.units * kRowGroup + r % kRowGroup; }

  void centre(const Scalar* x, float* line) const {
    if constexpr (!exact) {
      for (int64_t d = 0; d < padded_; d += F32::lanes) {
        const F32 value = F32::load(x + d);
        (codes_.cosine ? value : value - F32::load(codes_.centre + d)).store(line + d);
      }
    }
  }

  void pack(int64_t count) {
    if constexpr (exact) {
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t d = 0; d < packed_.units; ++d) words_of(r)[d * kRowGroup] = rows_[r].open ? 0 : rows_[r].x[d];
        rows_[r].length = std::sqrt(quick_dot(rows_[r].x, rows_[r].x, codes_.columns));
      }
    } else {
      float peak = 0;  // of the tile
      for (int64_t r = 0; r < count; ++r) {
        if (rows_[r].open) continue;
        centre(rows_[r].x, line_.get());
        F32 most(0.0f), rest(0.0f);
        for (int64_t d = 0; d < padded_; d += F32::lanes) {
          const F32 x = F32::load(line_.get() + d);
          most = max(most, max(x, F32(0.0f) - x));
          rest = rest + (x - x);
        }
        rows_[r].open = reduce_add(rest) != 0;  // x - m overflows
        if (!rows_[r].open) peak = std::max(peak, reduce_max(most));
      }
      set_scale(peak);
      for (int64_t r = 0; r < count; ++r) pack_row(r);
    }
    for (int64_t r = count; r % kRowGroup != 0; ++r) {
      for (int64_t u = 0; u < packed_.units; ++u) words_of(r)[u * kRowGroup] = 0;
    }
  }

  // The scale of the rows of this tile: of integers as fine as they and the sums' range allow.
  void set_scale(float peak) {
    scale_ = packed_.scale;
    bounds_ = packed_.bounds;
    arithmetic_ = kFloatPass;
    unit_ = double{scale_} * scale_;
    if constexpr (integers) {
      // bytes hold values, pairs of shorts are summed up: their norm is what must fit
      const auto columns = static_cast<float>(codes_.columns);
      const float finest = Pass::kPass == CodePass::bytes ? peak / 127 : peak * std::sqrt(columns) / 32700;
      const auto coarsest = static_cast<float>(packed_.scale * (packed_.largest_start * 0x1p-29));
      scale_ = std::max({finest, coarsest, 0x1p-100f});
      unit_ = double{scale_} * packed_.scale;
      bounds_.half_error += unit_ + 0x1p-22 * bounds_.half;
      arithmetic_ = {0, 0};
      start_factor_ = packed_.scale / scale_;
    }
  }

  void pack_row(int64_t r) {
    constexpr int shift = Pass::kPass == CodePass::bytes ? 128 : 0;
    Row& row = rows_[r];
    if (row.open) {
      for (int64_t u = 0; u < packed_.units; ++u) words_of(r)[u * kRowGroup] = 0;
      return;
    }
    centre(row.x, line_.get());
    const Packed packed = Pass::pack(line_.get(), codes_.columns, 1 / scale_, shift, words_of(r), kRowGroup);
    // in double and with what the sums themselves round; in the scale of the bounds
    const double scale = integers ? scale_ : 1, slack = 1 + 0x1p-22 * (codes_.columns + 16);
    const double norm = scale * (std::sqrt(packed.square) * slack + 0x1p-60 * codes_.columns);
    const double error = scale * std::sqrt(packed.error) * slack + (integers ? 0x1p-21 : 0x1p-23) * norm;
    const double margin = 2 * score_error<double>(bounds_, arithmetic_, codes_.columns, norm, error) /
                          (integers ? unit_ : 1);
    constexpr double limit = integers ? 0x1p29 : 0x1p100;
    row.open = !(margin < limit);
    row.length = (norm + bounds_.row_centre) * (integers ? 1 : double{scale_});
    row.margin = static_cast<Lane>(integers ? std::ceil(margin) : margin * (1 + 0x1p-20));
  }

  void score(int64_t chunk, int64_t tiles, int64_t count) {
    const int64_t first = chunk * packed_.tile;
    if constexpr (integers) set_starts(first, tiles * packed_.tile);
    const Word* words = static_cast<const Word*>(packed_.words) + first * packed_.units;
    for (int64_t r = 0; r < count; r += kRowGroup) {
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t code = t * packed_.tile;
        const auto start = [&](int v) {
          const int64_t k = code + v * Sums::lanes;
          if constexpr (integers) return Sums::load(starts_.get() + k);
          else if constexpr (exact) return Sums(0.0);
          else return Sums::load(packed_.starts + first + k);
        };
        score_tile<Pass>(
            words_of(r), words + code * packed_.units, packed_.units, start,
            {codes_.weights + first + code, codes_.cosine}, maxima_.get() + r * stride_ + t * Sums::lanes, stride_);
      }
    }
  }

  void set_starts(int64_t first, int64_t count) {
#if DVAE_SIMD_AVX512
    for (int64_t k = 0; k < count; k += I32::lanes) {
      // -infinity becomes the lowest integer
      const __m512i start = _mm512_cvtps_epi32((F32::load(packed_.starts + first + k) * F32(start_factor_)).v);
      const __m512i shift = _mm512_slli_epi32(I32::load(packed_.sums + first + k).v, 7);
      I32{Pass::kPass == CodePass::bytes ? _mm512_sub_epi32(start, shift) : start}.store(starts_.get() + k);
    }
#endif
  }

  // Scores above this one may be the nearest code's.
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
    const Lane* maxima = maxima_.get() + r * stride_;
    Sums even = Sums::load(maxima), odd = even;
    for (int64_t t = 1; t + 1 < tiles; t += 2) {
      even = max(even, Sums::load(maxima + t * Sums::lanes));
      odd = max(odd, Sums::load(maxima + (t + 1) * Sums::lanes));
    }
    even = max(even, Sums::load(maxima + (tiles - 1) * Sums::lanes));
    const Lane most = reduce_max(max(even, odd));
    if (most == lowest()) return;
    if (most > row.best) {
      row.best = most;
      const Lane limit = below(row.best, row.margin);
      row.candidates = static_cast<int>(
          std::remove_if(found, found + row.candidates, [&](const Candidate& c) { return !(c.score > limit); }) - found);
    }
    const Lane limit = below(row.best, row.margin);
    if (!(most > limit)) return;
    for (int64_t t = 0; t < tiles; ++t) {
      const Lane* lanes = maxima + t * Sums::lanes;
      for (uint32_t above = lanes_above(Sums::load(lanes), limit); above != 0; above &= above - 1) {
        if (row.candidates == kMostCandidates) {
          row.open = !exact;  // what an exact pass drops is equal to the best one and has a higher index
          return;
        }
        const int l = __builtin_ctz(above);
        found[row.candidates++] = {lanes[l], static_cast<int32_t>((chunk + t) * packed_.tile + l)};
      }
    }
  }

  void decide(int64_t r, int64_t i) {
    Row& row = rows_[r];
    const int64_t to = number(i);
    args_.open[i] = row.open && row.finite;
    rescored_rows_ += args_.open[i] || row.candidates > 1;
    if (args_.open[i]) {
      rescored_blocks_ += packed_.tiles * Sums::lanes;
      return;
    }
    int64_t nearest = -1;
    double score = kNaN<double>;
    if (row.finite) nearest = choose(r, &score);
    args_.indices[to] = std::max<int64_t>(nearest, 0);
    if (args_.scores) static_cast<Scalar*>(args_.scores)[to] = static_cast<Scalar>(score);
  }

  // The nearest of the candidates' codes, or -1. Scores in any order leave one, or ties and the like, which need the
  // definition's order.
  int64_t choose(int64_t r, double* score) {
    const Row& row = rows_[r];
    Candidate* const found = candidates_.get() + r * kMostCandidates;
    const auto* values = static_cast<const Scalar*>(codes_.values.data);
    const int64_t columns = codes_.columns;
    const auto code_of = [&](int c, int v) { return int64_t{found[c].code} + v * Sums::lanes; };
    const double norm = args_.largest_length, slack = 0x1p-50 * (columns + 8) * (row.length * norm + norm * norm);
    // from the best score on, a candidate has a chance only if its score could be that high
    double floor = 0;  // of what the pass counts from
    if (!exact && row.candidates > 1) {
      std::sort(found, found + row.candidates, [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
      floor = codes_.half_centre - quick_dot(row.x, codes_.centre, columns) - slack;
    }
    double quick[kMostCandidates][kCodeVectors], most = kMinusInfinity<double>;
    int scored = 0;
    for (; scored < row.candidates; ++scored) {
      if (!exact && (found[scored].score + row.margin * 0.5) * unit_ < most + floor) break;
      const Scalar* code[kCodeVectors];
      for (int v = 0; v < kCodeVectors; ++v) code[v] = values + std::min(code_of(scored, v), codes_.count - 1) * columns;
      quick_dots(row.x, code, columns, quick[scored]);
      for (int v = 0; v < kCodeVectors; ++v) {
        double& now = quick[scored][v];
        now = code_score(now, codes_.weights[code_of(scored, v)], codes_.cosine);
        if (now > most) most = now;
      }
    }
    rescored_blocks_ += scored;
    int64_t close[kMostCandidates * kCodeVectors];
    int count = 0;
    for (int c = 0; c < scored; ++c) {
      for (int v = 0; v < kCodeVectors; ++v) {
        if (quick[c][v] >= most - slack) close[count++] = code_of(c, v);
      }
    }
    if (count == 1 && !args_.scores) return close[0];
    int64_t nearest = -1;
    for (int i = 0; i < count; ++i) {
      const int64_t k = close[i];
      const double dot = ordered_dot(row.x, 1, values + k * columns, 1, columns);
      const double now = code_score(dot, codes_.weights[k], codes_.cosine);
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
  Allocation<Scalar> x_;      // [tile rows, padded columns]
  Allocation<float> line_;    // [padded columns]
  Allocation<Word> words_;    // [tile rows / kRowGroup, units, kRowGroup]
  Allocation<Lane> maxima_;   // [tile rows, stride]
  Allocation<int32_t> starts_;
  Allocation<Candidate> candidates_;
  Allocation<Row> rows_;
  int64_t rescored_rows_ = 0, rescored_blocks_ = 0;
  CodeBounds<double> bounds_{};
  PassArithmetic arithmetic_{};
  float scale_ = 1, start_factor_ = 1;
  double unit_ = 1;  // of the scores of the pass
};

template <class Pass, class Scalar>
void search_as(const NearestArgs& args, int64_t begin, int64_t end) {
  NearestSearch<Pass, Scalar> search(args);
  for (int64_t tile = begin; tile < end; ++tile) search.run(tile);
}

// Tiles [begin, end) of rows.
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
