// Arguments of the CPU kernels, the same for every target.
#pragma once

#include <atomic>

#include "common/buffers.h"
#include "simd/targets.h"
#include "nearest_code/formulas.h"

namespace dvae {

// What a pass multiplies. The scores of all but the last are off by a bounded error; the last is the definition.
enum class CodePass { bytes, shorts, floats, doubles };

// Codes whose sums with kRowGroup rows stay in registers: 4 vectors of them in the 32 of AVX-512, else 2 of 16.
inline int64_t codes_of_tile(CpuTarget target, CodePass pass) {
  return float_lanes(target) / (pass == CodePass::doubles ? 2 : 1) * (has_avx512(target) ? 4 : 2);
}
constexpr int64_t kRowGroup = 6;
constexpr int64_t kMostTileCodes = 64;

// Columns in whole vectors of any target; what is added holds zeros.
inline int64_t padded_columns(int64_t columns) { return (columns + 15) / 16 * 16; }

// The codes of one head: what the definition takes of them, and what a pass must know before it packs them.
struct Codes {
  Buffer values;  // [count, columns], contiguous, in the compute dtype
  int64_t count, columns;
  bool cosine;
  double* weights;  // as code_weight gives them, then NaN up to a whole tile
  double* lengths;  // |c|^2 in order
  float* centre;    // m, [padded columns]
  double half_centre;  // |m|^2 / 2, 0 for cosine: scores of what is centred are larger by this less x.m
  double* norms;    // |c - m|^2, c normalised for cosine; 0 for what cannot be chosen
  float* peaks;     // the largest absolute value in it
};

// The codes of one head as one pass multiplies them: tile by tile, and in it word by word the codes side by side.
struct PackedCodes {
  CodePass pass;
  int64_t units;        // words of a code
  int64_t tile, tiles;  // codes of a tile, and their number
  void* words;          // [tiles, units, tile]
  float* starts;        // -|c|^2 / 2 in the square of the scale, and -infinity for what cannot be chosen
  int32_t* sums;        // of the packed values of a code
  float* errors;        // their squared distance to the code, in the square of the scale
  float scale;          // a packed value times this is a value of the code
  double largest_start;
  CodeBounds<double> bounds;  // of floats in their scale, else as they are
};

// One pass over rows of one head.
struct NearestArgs {
  const Codes* codes;
  const PackedCodes* packed;
  Buffer x;
  int64_t stride;
  const int64_t* rows;  // their numbers, or null for the first `count` of x
  int64_t count;
  int64_t tile_rows;  // a multiple of kRowGroup
  double largest_length;  // |c| of the definition, 1 for cosine
  int64_t* indices;
  void* scores;   // in the compute dtype, or null
  uint8_t* open;  // [count]: whether the pass leaves the row to the next one
  std::atomic<int64_t>*rescored_rows, *rescored_blocks;
};

}  // namespace dvae
