// The CUDA kernels of the nearest code; nothing here needs torch, so that the host shim can run it all.
//
// A block scores a tile of rows against all codes in float32, tile by tile, as a matrix product in registers. Of a row,
// each of its threads keeps the best maximum among the blocks of eight codes that it sees, where that was, and the
// second best. Rows that the bound of formulas.h leaves undecided are then scored by the definition.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "nearest_code/formulas.h"

namespace dvae {

constexpr int kNearestThreads = 256, kNearestSide = 16;  // of a block, and of these as many for rows as for codes
constexpr int kNearestTile = 128;                        // codes of a block's product
constexpr int kNearestChunk = 32;                        // columns of a tile of codes in shared memory
constexpr int kPerThread = kNearestTile / kNearestSide;  // codes, which are a block of them
constexpr int kRowLanes = kPerThread;                    // threads that score a block of codes by the definition
// Rows of a thread; the few where blocks of the many would leave multiprocessors idle.
constexpr int kManyRows = 8, kFewRows = 2;
template <int kRows>
constexpr int kRowTile = kNearestSide * kRows;  // rows of a block
template <int kRows>
constexpr int kRowPitch = kRowTile<kRows> + 4;  // of a column of them, which is written across
constexpr int64_t kCentreSample = 64;                    // codes whose mean is the centre

// [heads, rows, columns] of any strides; Acc = float reads every type but double.
template <class Acc>
struct HeadMatrix {
  void* data;
  Storage storage;
  int64_t rows, columns;
  int64_t head_stride, row_stride, column_stride;

  __device__ StridedRow<Acc> row(int64_t head, int64_t row) const {
    const int64_t offset = head * head_stride + row * row_stride;
    return {static_cast<char*>(data) + offset * size_of<Acc>(storage), column_stride, columns, storage};
  }
};

// Sizes of the codes, and of the memory for packing them.
struct NearestSizes {
  int64_t heads, codes, columns;

  DVAE_HD int64_t tiles() const { return (codes + kNearestTile - 1) / kNearestTile; }
  DVAE_HD int64_t padded() const { return (columns + 3) / 4 * 4; }
  DVAE_HD int64_t tile_values() const { return (1 + padded()) * kNearestTile; }
  // scratch memory: of doubles, of the compute type, and of floats
  int64_t doubles() const { return heads * (2 * codes + tiles() + 2); }
  int64_t centres() const { return heads * columns; }
  int64_t floats() const { return heads * tiles() * tile_values(); }
};

template <class Acc>
struct NearestArgs {
  HeadMatrix<Acc> x, codes;
  NearestSizes sizes;
  Metric metric;
  CodeTerms* terms;  // [heads, codes]
  double* squares;   // [heads, tiles]: the largest |b|^2
  double* scales;    // [heads, 2]: the scale of the first pass, and |m|^2 at this scale
  Acc* centres;     // [heads, columns]
  float* tiles;     // [heads, tiles, 1 + padded columns, kNearestTile]: -h^, then the columns of b^
  int64_t* indices;
  Acc* scores;  // or null
  unsigned long long* rescored;
  int64_t row_tiles;
  int32_t chunk, held;  // columns of codes and of rows in shared memory

  // Shares out scratch memory of the sizes' numbers of values.
  void take(double* doubles, Acc* centre_values, float* floats) {
    terms = reinterpret_cast<CodeTerms*>(doubles);
    squares = doubles + sizes.heads * sizes.codes * 2;
    scales = squares + sizes.heads * sizes.tiles();
    centres = centre_values;
    tiles = floats;
  }

  __device__ float* tile(int64_t head, int64_t tile) const {
    return this->tiles + (head * sizes.tiles() + tile) * sizes.tile_values();
  }
};

// A thread for each code.
template <class Acc>
__global__ void __launch_bounds__(kMaxThreads) code_terms_kernel(RowPlan plan, NearestArgs<Acc> args) {
  const RowPlace place(plan);
  if (!place.chunks) return;
  double square = 0;
  bool finite = true;
  args.codes.row(place.row / args.sizes.codes, place.row % args.sizes.codes).typed([&](const auto* code) {
    for (int64_t d = 0; d < args.sizes.columns; ++d) {
      const double c = load_as_compute(code[d * args.codes.column_stride]);
      square += c * c;
      finite = finite && c - c == 0;
    }
  });
  args.terms[place.row] = code_terms(args.metric, square, finite);
}

// Merges the values of all threads of a block; every thread calls it, once.
template <class State, class Merge>
__device__ State reduce_block(State state, unsigned char* scratch, int threads, const Merge& merge) {
  State* warps = reinterpret_cast<State*>(scratch);
#pragma unroll 1
  for (int mask = kWarp / 2; mask > 0; mask /= 2) merge(state, shuffle_xor(state, mask));
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = state;
  __syncthreads();
  state = warps[0];
  for (int warp = 1; warp < threads / kWarp; ++warp) merge(state, warps[warp]);
  return state;
}

struct Spread {
  double square, largest;  // of the centre, and from it
};

// A block for each head: the mean of some codes, and the power of two that brings their distance from it below one.
template <class Acc>
__global__ void __launch_bounds__(kNearestThreads) centre_codes_kernel(RowPlan, NearestArgs<Acc> args) {
  DVAE_SHARED_MEMORY(memory);
  const int64_t head = blockIdx.x, codes = args.sizes.codes, step = (codes + kCentreSample - 1) / kCentreSample;
  const CodeTerms* const terms = args.terms + head * codes;
  Spread spread{0, 0};
  for (int64_t d = threadIdx.x; d < args.sizes.columns; d += kNearestThreads) {
    const auto for_sample = [&](const auto& run) {
#pragma unroll 4
      for (int64_t sample = 0; sample < kCentreSample; ++sample) {
        const int64_t k = sample * step;
        if (k >= codes) break;
        const double factor = terms[k].scale;
        if (factor == factor) run(args.codes.row(head, k).at(static_cast<uint32_t>(d)) * factor);
      }
    };
    double sum = 0;
    float count = 0;
    for_sample([&](double c) {
      sum += c;
      count += 1;
    });
    Acc centre = static_cast<Acc>(sum * fast_reciprocal(count));  // any centre will do, and none makes NaN
    if (!(centre - centre == 0)) centre = 0;
    args.centres[head * args.sizes.columns + d] = centre;
    const double m = centre;
    spread.square += m * m;
    for_sample([&](double c) { spread.largest = fmax(spread.largest, fabs(c - m)); });
  }
  spread = reduce_block(spread, memory, kNearestThreads, [](Spread& a, const Spread& b) {
    a.square += b.square;
    a.largest = fmax(a.largest, b.largest);
  });
  if (threadIdx.x != 0) return;
  double scale = 1;
  if (!args.metric.normalised && spread.largest > 0 && spread.largest <= kLargest<double>) {
    constexpr int most = std::numeric_limits<Acc>::max_exponent - 2;  // so that the scale is a normal number
    const int exponent = static_cast<int>(bit_cast<uint64_t>(spread.largest) >> 52) - 1022;
    scale = bit_cast<double>(uint64_t(1023 - (exponent > most ? most : exponent < -most ? -most : exponent)) << 52);
  }
  args.scales[2 * head] = scale;
  args.scales[2 * head + 1] = spread.square * scale * scale;
}

// A thread for each code of a tile packs it for the first pass.
template <class Acc>
__global__ void __launch_bounds__(kNearestTile) code_tiles_kernel(RowPlan, NearestArgs<Acc> args) {
  DVAE_SHARED_MEMORY(memory);
  const int64_t head = blockIdx.x / args.sizes.tiles(), tile = blockIdx.x % args.sizes.tiles();
  const int64_t code = tile * kNearestTile + threadIdx.x;
  const double factor = code < args.sizes.codes ? args.terms[head * args.sizes.codes + code].scale : kNaN<double>;
  const bool exists = factor == factor;
  const double scale = args.scales[2 * head];
  const StridedRow<Acc> row = args.codes.row(head, exists ? code : 0);
  const Acc* const centre = args.centres + head * args.sizes.columns;
  float* const out = args.tile(head, tile) + threadIdx.x;
  double square = 0;
#pragma unroll 4
  for (int64_t d = 0; d < args.sizes.padded(); ++d) {
    double b = 0;
    if (exists && d < args.sizes.columns) b = (row.at(static_cast<uint32_t>(d)) * factor - centre[d]) * scale;
    out[(1 + d) * kNearestTile] = static_cast<float>(b);
    square += b * b;
  }
  out[0] = !exists ? kMinusInfinity<float> : args.metric.distance ? static_cast<float>(-square / 2) : 0.f;
  square = reduce_block(square, memory, kNearestTile, [](double& a, double b) { a = fmax(a, b); });
  if (threadIdx.x == 0) args.squares[blockIdx.x] = square;
}

// The bounds of the codes, from the largest |b|^2 and |m|^2. In float32: a bound that overflows leaves all undecided.
DVAE_HD inline CodeBounds<float> float_bounds(
    double square, double centre_square, int64_t columns, const Metric& metric) {
  const auto up = [](double x) { return static_cast<float>(x * 1.000001); };  // more than its rounding takes away
  const float norm = up(sqrt(square)), half = metric.distance ? up(square / 2) + 0x1p-149f : 0;
  const float m = up(sqrt(centre_square));
  const float error = 0x1.01p-24f * norm + 0x1p-149f * static_cast<float>(columns);
  return {norm, error, half, 0x1.01p-24f * half + 0x1p-149f, m, metric.distance ? m : 0};
}

// The error of a row's scores, from |a|^2.
DVAE_HD inline float float_pass_error(const CodeBounds<float>& codes, double square, int64_t columns) {
  constexpr PassArithmetic pass = kFloatPass;
  const auto norm = static_cast<float>(sqrt(square) * 1.000001);
  return ScoreError<float>(codes, pass, columns).of(norm, 0x1.01p-24f * norm + 0x1p-149f * static_cast<float>(columns));
}

// 16 bytes from global to shared memory, which are there after wait_for_copies<n> when n or fewer groups came later.
__device__ inline void copy_to_shared(float* target, const float* source) {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(target))), "l"(__cvta_generic_to_global(source))
               : "memory");
#else
  memcpy(target, source, 16);
#endif
}
__device__ inline void end_of_copies() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kLater>
__device__ void wait_for_copies() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
#endif
}

// A thread's rows or codes lie in runs of up to four neighbours, one run for each thread side by side.
template <int N>
constexpr int kRun = N < 4 ? N : 4;
template <int N>
__device__ int place_in_tile(int thread, int i) {
  return i / kRun<N> * (kNearestSide * kRun<N>) + thread * kRun<N> + i % kRun<N>;
}

// A thread's N values of a column; `source` is where its first run begins.
template <int N>
__device__ void load_runs(const float* source, float (&to)[N]) {
  using Word = std::conditional_t<kRun<N> == 4, Bits128, Bits64>;
#pragma unroll
  for (int i = 0; i < N; i += kRun<N>) {
    const Word bits = *reinterpret_cast<const Word*>(source + i * kNearestSide);
    memcpy(to + i, &bits, sizeof(bits));
  }
}

// A thread's best blocks for a row.
struct KeptBlocks {
  float best, second;  // maxima of its blocks of codes
  int32_t tile;        // of the best
};

// A code and its score by the definition; NaN before the first.
struct ScoredCode {
  double score;
  int64_t code;
};

struct RowNorm {
  double square;
  int64_t infinite;  // elements that are not finite
};

template <class Acc, int kRows>
__global__ void __launch_bounds__(kNearestThreads, sizeof(Acc) == 4 ? 2 : 1)
    nearest_code_kernel(RowPlan, NearestArgs<Acc> args) {
  constexpr int kTile = kRowTile<kRows>, kPitch = kRowPitch<kRows>;
  DVAE_SHARED_MEMORY(memory);
  const NearestSizes& sizes = args.sizes;
  const int thread = static_cast<int>(threadIdx.x), tx = thread % kNearestSide, ty = thread / kNearestSide;
  const int64_t head = blockIdx.x / args.row_tiles, first_row = blockIdx.x % args.row_tiles * kTile;
  const int64_t columns = sizes.columns;
  const int32_t tiles = static_cast<int32_t>(sizes.tiles()), padded = static_cast<int32_t>(sizes.padded());
  const int32_t chunk = args.chunk;
  const int32_t chunks = (padded + chunk - 1) / chunk;
  const Acc* const centre = args.centres + head * columns;
  const Acc scale = static_cast<Acc>(args.scales[2 * head]);
  float* const rows = reinterpret_cast<float*>(memory);      // [held columns, kPitch]
  float* const codes = rows + int64_t{args.held} * kPitch;  // two of [1 + chunk, kNearestTile]
  const int32_t buffer = (1 + chunk) * kNearestTile;

  // a: x - m at the scale of the codes, or x
  const auto centred = [&](Acc x, int64_t d) { return args.metric.distance ? (x - centre[d]) * scale : x; };
  const auto load_rows = [&](int32_t begin, int32_t count) {
#pragma unroll 1
    for (int32_t i = thread; i < count * kTile; i += kNearestThreads) {
      const int32_t r = i / count, d = i % count;
      Acc x = 0;
      if (first_row + r < args.x.rows && begin + d < columns) {
        x = centred(args.x.row(head, first_row + r).at(begin + d), begin + d);
      }
      rows[d * kPitch + r] = static_cast<float>(x);
    }
  };
  const auto width = [&](int32_t part) { return padded - part * chunk < chunk ? padded - part * chunk : chunk; };
  const auto start_copies = [&](int32_t tile, int32_t part, float* to) {
    const float* const from = args.tile(head, tile) + part * chunk * kNearestTile;
    const int32_t end = (1 + width(part)) * kNearestTile;  // the first row is read for the first part only
#pragma unroll 1
    for (int32_t i = thread * 4; i < end; i += kNearestThreads * 4) copy_to_shared(to + i, from + i);
  };

  KeptBlocks kept[kRows];
#pragma unroll
  for (KeptBlocks& k : kept) k = {kMinusInfinity<float>, kMinusInfinity<float>, 0};
  float sums[kRows][kPerThread];

  start_copies(0, 0, codes);
  end_of_copies();
  if (args.held == padded) load_rows(0, padded);
  int32_t part = 0, tile = 0;
  for (int current = 0; tile < tiles; current ^= 1) {
    const int32_t next_part = part + 1 < chunks ? part + 1 : 0;
    const int32_t next_tile = tile + (next_part == 0);
    if (next_tile < tiles) start_copies(next_tile, next_part, codes + (current ^ 1) * buffer);
    end_of_copies();
    if (args.held < padded) load_rows(part * chunk, width(part));
    wait_for_copies<1>();
    __syncthreads();

    const float* x = rows + (args.held < padded ? 0 : part * chunk * kPitch) + ty * kRun<kRows>;
    const float* c = codes + current * buffer + tx * kRun<kPerThread>;
    const float* const end = c + width(part) * kNearestTile;
    if (part == 0) {
      float h[kPerThread];
      load_runs(c, h);
#pragma unroll
      for (auto& row : sums) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) row[j] = h[j];
      }
    }
#pragma unroll 1
    while (c < end) {
#pragma unroll
      for (int d = 0; d < 4; ++d, x += kPitch) {
        float a[kRows], b[kPerThread];
        c += kNearestTile;
        load_runs(x, a);
        load_runs(c, b);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int j = 0; j < kPerThread; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
      }
    }
    if (next_part == 0) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float most = sums[i][0];
#pragma unroll
        for (int j = 1; j < kPerThread; ++j) most = fmaxf(most, sums[i][j]);
        KeptBlocks& k = kept[i];
        if (most > k.best) k.tile = tile;
        k.second = fmaxf(k.second, fminf(k.best, most));
        k.best = fmaxf(k.best, most);
      }
    }
    __syncthreads();
    part = next_part;
    tile = next_tile;
  }
  wait_for_copies<0>();

  // The best blocks go where the tiles were; from now on groups of threads take a row each.
  KeptBlocks* const all_kept = reinterpret_cast<KeptBlocks*>(memory);
#pragma unroll
  for (int i = 0; i < kRows; ++i) all_kept[place_in_tile<kRows>(ty, i) * kNearestSide + tx] = kept[i];
  __syncthreads();
  const int lane = thread % kRowLanes;
  const auto merge_lanes = [](auto& state, const auto& merge) {
#pragma unroll 1
    for (int mask = 1; mask < kRowLanes; mask *= 2) merge(state, shuffle_xor(state, mask));
  };
  double largest = 0;
  for (int64_t t = lane; t < tiles; t += kRowLanes) largest = fmax(largest, args.squares[head * tiles + t]);
  merge_lanes(largest, [](double& a, double b) { a = fmax(a, b); });
  const CodeBounds<float> bounds = float_bounds(largest, args.scales[2 * head + 1], columns, args.metric);
  unsigned long long undecided_rows = 0, scored_blocks = 0;
#pragma unroll 1
  for (int slot = thread / kRowLanes; slot < kTile; slot += kNearestThreads / kRowLanes) {
    const bool exists = first_row + slot < args.x.rows;
    const int64_t row = exists ? first_row + slot : 0;
    const StridedRow<Acc> x = args.x.row(head, row);
    RowNorm norm{0, 0};
    for (int64_t d = lane; d < columns; d += kRowLanes) {
      const Acc value = x.at(static_cast<uint32_t>(d));
      norm.infinite += !(value - value == 0);
      const double a = centred(value, d);
      norm.square += a * a;
    }
    merge_lanes(norm, [](RowNorm& a, const RowNorm& b) {
      a.square += b.square;
      a.infinite += b.infinite;
    });
    const KeptBlocks* const row_kept = all_kept + slot * kNearestSide;
    float threshold = row_kept[0].best;
    for (int i = 1; i < kNearestSide; ++i) threshold = fmaxf(threshold, row_kept[i].best);
    threshold -= 2 * float_pass_error(bounds, norm.square, columns);
    ScoredCode winner{kNaN<double>, 0};
    unsigned long long blocks = 0;
    if (exists && norm.infinite == 0) {
      for (int i = 0; i < kNearestSide; ++i) {
        // NaN leaves all blocks undecided
        const bool all = !(row_kept[i].second < threshold), one = !(row_kept[i].best < threshold);
        int64_t t = all ? 0 : row_kept[i].tile;
        const int64_t end = all ? tiles : one ? t + 1 : t;
#pragma unroll 1
        for (; t < end; ++t) {
          const int64_t code = t * kNearestTile + place_in_tile<kPerThread>(i, lane);
          blocks += t * kNearestTile + place_in_tile<kPerThread>(i, 0) < sizes.codes;
          if (code >= sizes.codes) continue;
          double dot = 0;
          x.typed([&](const auto* xs) {
            args.codes.row(head, code).typed([&](const auto* cs) {
              dot = ordered_dot(xs, args.x.column_stride, cs, args.codes.column_stride, columns);
            });
          });
          const double score = code_score(dot, args.terms[head * sizes.codes + code]);
          if (is_better(score, code, winner.score, winner.code)) winner = {score, code};
        }
      }
    }
    __syncwarp();
    merge_lanes(winner, [](ScoredCode& a, const ScoredCode& b) {
      if (is_better(b.score, b.code, a.score, a.code)) a = b;
    });
    if (lane == 0 && exists) {
      args.indices[head * args.x.rows + row] = winner.code;
      if (args.scores) args.scores[head * args.x.rows + row] = static_cast<Acc>(winner.score);
      undecided_rows += blocks > 1;
      scored_blocks += blocks;
    }
  }
  if (undecided_rows) atomicAdd(args.rescored, undecided_rows);
  if (scored_blocks) atomicAdd(args.rescored + 1, scored_blocks);
  if (blockIdx.x == 0 && thread == 0) {
    const int64_t rest = sizes.codes - (tiles - 1) * kNearestTile, quads = (rest + 3) / 4;
    const int64_t blocks = (tiles - 1) * kNearestSide + (quads < kNearestSide ? quads : kNearestSide);
    args.rescored[2] = static_cast<unsigned long long>(sizes.heads * args.x.rows * blocks);
  }
}

inline RowPlan plan_blocks(int64_t blocks, int threads, size_t shared_bytes) {
  if (blocks > INT32_MAX) throw std::length_error("nearest_code: too many rows");
  RowPlan plan{};
  plan.threads = static_cast<unsigned>(threads);
  plan.grid_x = static_cast<unsigned>(blocks);
  plan.grid_y = 1;
  plan.shared_bytes = shared_bytes;
  return plan;
}

inline int multiprocessors() {
#ifdef __CUDACC__
  int device, count;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
#else
  return 2;
#endif
}

template <int kRows, class Acc>
void nearest_code_of_rows(Stream stream, NearestArgs<Acc> args) {
  const int64_t padded = args.sizes.padded();
  args.row_tiles = divide_up(args.x.rows, kRowTile<kRows>);
  args.chunk = static_cast<int32_t>(std::min<int64_t>(padded, kNearestChunk));
  const auto shared = [&](int64_t held) {
    const int64_t product = held * kRowPitch<kRows> + 2 * (1 + args.chunk) * kNearestTile;
    return std::max<size_t>(product * sizeof(float), kRowTile<kRows> * kNearestSide * sizeof(KeptBlocks));
  };
  // all columns of the rows stay where two blocks, with 1 KB each for the driver, fit on a multiprocessor
  const size_t limit = shared_limit() / 2 - 1024;
  args.held = static_cast<int32_t>(shared(padded) <= limit ? padded : args.chunk);
  launch(plan_blocks(args.sizes.heads * args.row_tiles, kNearestThreads, shared(args.held)), stream,
         nearest_code_kernel<Acc, kRows>, args);
}

// Everything of args is set but row_tiles, chunk and held; neither heads, rows, codes nor columns are zero.
template <class Acc>
void nearest_code(Stream stream, const NearestArgs<Acc>& args) {
  const NearestSizes& sizes = args.sizes;
  if (sizes.tile_values() > INT32_MAX) throw std::length_error("nearest_code: too many columns");
  constexpr size_t warps = kNearestThreads / kWarp;
  launch(plan_rows<float>(sizes.heads * sizes.codes, 1, 1, 1, false, 0, 0), stream, code_terms_kernel<Acc>, args);
  launch(plan_blocks(sizes.heads, kNearestThreads, warps * sizeof(Spread)), stream, centre_codes_kernel<Acc>, args);
  launch(plan_blocks(sizes.heads * sizes.tiles(), kNearestTile, warps * sizeof(double)), stream,
         code_tiles_kernel<Acc>, args);
  if (sizes.heads * divide_up(args.x.rows, kRowTile<kManyRows>) >= multiprocessors()) {
    nearest_code_of_rows<kManyRows>(stream, args);
  } else {
    nearest_code_of_rows<kFewRows>(stream, args);
  }
}

}  // namespace dvae
