// Measuring and packing the codes of nearest_code. Included once per target, after cpu_passes.h.

#ifndef DVAE_TARGET  // for an editor
#include "nearest_code/arguments.h"
#include "simd/editor.h"
#endif

// b = scale c - m of one code, then zeros up to whole vectors; all zeros for a code that cannot be chosen.
inline void centred_code(const Codes& codes, int64_t k, float* to) {
  const int64_t columns = codes.columns;
  const float* code = static_cast<const float*>(codes.values.data) + k * columns;
  const double scale = codes.terms[k].scale;
  std::fill(to, to + padded_columns(columns), 0.0f);
  if (!codes.can_be_chosen(k)) return;
  if (scale == 1) {  // as below, without the detour through double
    for (int64_t d = 0; d < columns; ++d) to[d] = code[d] - codes.centre[d];
  } else {
    for (int64_t d = 0; d < columns; ++d) to[d] = static_cast<float>(code[d] * scale) - codes.centre[d];
  }
}

// Squares and terms of codes [begin, end), four at a time: each sum is a chain of additions.
template <class Scalar>
void set_terms_as(const Codes& codes, int64_t begin, int64_t end) {
  const auto* values = static_cast<const Scalar*>(codes.values.data);
  for (int64_t k = begin; k < end; k += 4) {
    const Scalar* code[4];
    for (int i = 0; i < 4; ++i) code[i] = values + std::min(k + i, end - 1) * codes.columns;
    double square[4] = {}, rest[4] = {};  // rest: NaN where a value is not finite
    for (int64_t d = 0; d < codes.columns; ++d) {
      for (int i = 0; i < 4; ++i) {
        const double c = code[i][d];
        square[i] += c * c;
        rest[i] += c - c;
      }
    }
    for (int i = 0; i < 4 && k + i < end; ++i) {
      codes.squares[k + i] = square[i];
      codes.terms[k + i] = code_terms(codes.metric, square[i], rest[i] == 0);
    }
  }
}

inline void set_code_terms(const Codes& codes, int64_t begin, int64_t end) {
  codes.values.type == Storage::float64 ? set_terms_as<double>(codes, begin, end)
                                        : set_terms_as<float>(codes, begin, end);
}

inline void measure_codes(const Codes& codes, int64_t begin, int64_t end) {
  const int64_t padded = padded_columns(codes.columns);
  const Allocation<float> line(allocate<float>(padded));
  for (int64_t k = begin; k < end; ++k) {
    centred_code(codes, k, line.get());
    F32 amax(0.0f);
    for (int64_t d = 0; d < padded; d += F32::lanes) {
      const F32 c = F32::load(line.get() + d);
      amax = max(amax, max(c, F32(0.0f) - c));
    }
    codes.amax[k] = reduce_max(amax);
    codes.norms[k] = quick_dot(line.get(), line.get(), padded);
  }
}

template <class Pass>
void pack_as(const Codes& codes, const PackedCodes& packed, int64_t begin, int64_t end) {
  const Allocation<float> line(allocate<float>(padded_columns(codes.columns)));
  const float inverse = 1 / packed.scale;
  for (int64_t k = begin * packed.tile; k < end * packed.tile; ++k) {
    const int64_t tile = k / packed.tile, place = k % packed.tile;
    auto* words = static_cast<typename Pass::Word*>(packed.words) + tile * packed.units * packed.tile + place;
    if (k < codes.count && codes.can_be_chosen(k)) {
      centred_code(codes, k, line.get());
      const Packed code = Pass::pack(line.get(), codes.columns, inverse, 0, words, packed.tile);
      packed.sums[k] = code.sum;
      packed.errors[k] = code.error;
      const double scale = packed.scale;
      packed.starts[k] = codes.metric.distance ? static_cast<float>(-codes.norms[k] / 2 / scale / scale) : 0.0f;
    } else {
      for (int64_t u = 0; u < packed.units; ++u) words[u * packed.tile] = 0;
      packed.sums[k] = 0;
      packed.errors[k] = 0;
      packed.starts[k] = kMinusInfinity<float>;
    }
  }
}

template <class Scalar>
void pack_doubles(const Codes& codes, const PackedCodes& packed, int64_t begin, int64_t end) {
  const auto* values = static_cast<const Scalar*>(codes.values.data);
  for (int64_t k = begin * packed.tile; k < end * packed.tile; ++k) {
    auto* words = static_cast<double*>(packed.words) + k / packed.tile * packed.units * packed.tile + k % packed.tile;
    packed.scales[k] = codes.terms[k].scale;
    packed.offsets[k] = codes.terms[k].offset;
    for (int64_t d = 0; d < codes.columns; ++d) {
      words[d * packed.tile] = k < codes.count ? static_cast<double>(values[k * codes.columns + d]) : 0;
    }
  }
}

// Tiles [begin, end).
inline void pack_codes(const Codes& codes, const PackedCodes& packed, int64_t begin, int64_t end) {
  switch (packed.pass) {
#if DVAE_SIMD_AVX512
    case CodePass::bytes: return pack_as<BytePass>(codes, packed, begin, end);
    case CodePass::shorts: return pack_as<ShortPass>(codes, packed, begin, end);
#endif
    case CodePass::doubles:
      return codes.values.type == Storage::float64 ? pack_doubles<double>(codes, packed, begin, end)
                                                   : pack_doubles<float>(codes, packed, begin, end);
    default: return pack_as<FloatPass>(codes, packed, begin, end);
  }
}
