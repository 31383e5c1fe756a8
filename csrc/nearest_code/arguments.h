// Arguments of the CPU kernels, the same for every target.
#pragma once

#include <atomic>

#include "common/buffers.h"
#include "simd/targets.h"
#include "nearest_code/formulas.h"

namespace dvae {

// The numbers that a pass multiplies. The last pass is the definition; scores of the others have a bounded error.
enum class CodePass { bytes, shorts, floats, doubles };

// Codes whose sums with kRowGroup rows stay in registers: 4 vectors of them in the 32 of AVX-512, else 2 of 16.
inline int64_t codes_of_tile(CpuTarget target, CodePass pass) {
  return float_lanes(target) / (pass == CodePass::doubles ? 2 : 1) * (has_avx512(target) ? 4 : 2);
}
constexpr int64_t kRowGroup = 6;
constexpr int64_t kMostTileCodes = 64;

// Columns rounded up to whole vectors of any target; the padding holds zeros.
inline int64_t padded_columns(int64_t columns) { return (columns + 15) / 16 * 16; }

// The codes of one head, their terms, and the measures that passes need to pack them.
struct Codes {
  Buffer values;  // [count, columns], contiguous, in the compute dtype
  int64_t count, columns;
  Metric metric;
  CodeTerms* terms;            // then scales of NaN up to a whole tile
  double* squares;             // |c|^2 in order
  float *centre, *row_centre;  // [padded columns]: m, and the centre of rows: m for a distance, else zeros
  double half_centre;          // |m|^2 / 2 for a distance, else 0: centred scores exceed uncentred ones by this - x.m
  double* norms;               // |b|^2 of b = scale c - m; 0 for a code that cannot be chosen
  float* amax;                 // the largest absolute value in b

  bool can_be_chosen(int64_t k) const { return terms[k].scale == terms[k].scale; }
};

// The codes of one head packed for one pass: in each tile, word by word, the codes lie side by side.
struct PackedCodes {
  CodePass pass;
  int64_t units;        // words of a code
  int64_t tile, tiles;  // codes of a tile, and the number of tiles
  void* words;          // [tiles, units, tile]
  double *scales, *offsets;  // for the last pass: the terms of the codes, up to a whole tile
  float* starts;        // -h in the square of the scale, and -infinity for a code that cannot be chosen
  int32_t* sums;        // the sum of the packed values of a code
  float* errors;        // their squared distance to the code, in the square of the scale
  float scale;          // a packed value times this is a value of the code
  double largest_start;
  CodeBounds<double> bounds;  // in the scale for a pass of floats, else unscaled
};

// One pass over rows of one head.
struct NearestArgs {
  const Codes* codes;
  const PackedCodes* packed;
  Buffer x;
  int64_t stride;
  const int64_t* rows;  // the numbers of the rows, or null for the first `count` rows of x
  int64_t count;
  int64_t tile_rows;  // a multiple of kRowGroup
  double largest_length;  // the largest |scale c|
  int64_t* indices;
  void* scores;   // in the compute dtype, or null
  uint8_t* undecided;  // [count]: whether the pass leaves the row to the next one
  std::atomic<int64_t>*rescored_rows, *rescored_blocks;
};

}  // namespace dvae
