// The codes of nearest_code: measured and packed. Included once per target, after cpu_passes.h.

#ifndef DVAE_TARGET  // for an editor
#include "nearest_code/cpu.h"
#include "simd/editor.h"
#endif

// c - m of one code, c normalised for cosine, in zeros up to whole vectors; zeros for what cannot be chosen.
inline void centred_code(const Codes& codes, int64_t k, float* to) {
  const int64_t columns = codes.columns;
  const float* code = static_cast<const float*>(codes.values.data) + k * columns;
  const double weight = codes.weights[k];
  std::fill(to, to + padded_columns(columns), 0.0f);
  if (weight != weight) return;
  if (codes.cosine) {
    for (int64_t d = 0; d < columns; ++d) to[d] = static_cast<float>(code[d] * weight) - codes.centre[d];
  } else {
    for (int64_t d = 0; d < columns; ++d) to[d] = code[d] - codes.centre[d];
  }
}

// lengths and weights of codes [begin, end), four at a time: each sum is a chain of additions.
template <class Scalar>
void weigh(const Codes& codes, int64_t begin, int64_t end) {
  const auto* values = static_cast<const Scalar*>(codes.values.data);
  for (int64_t k = begin; k < end; k += 4) {
    const Scalar* code[4];
    for (int i = 0; i < 4; ++i) code[i] = values + std::min(k + i, end - 1) * codes.columns;
    double length[4] = {}, rest[4] = {};  // rest: NaN where a value is not finite
    for (int64_t d = 0; d < codes.columns; ++d) {
      for (int i = 0; i < 4; ++i) {
        const double c = code[i][d];
        length[i] += c * c;
        rest[i] += c - c;
      }
    }
    for (int i = 0; i < 4 && k + i < end; ++i) {
      codes.lengths[k + i] = length[i];
      codes.weights[k + i] = code_weight(length[i], rest[i] == 0, codes.cosine);
    }
  }
}

inline void weigh_codes(const Codes& codes, int64_t begin, int64_t end) {
  codes.values.type == Storage::float64 ? weigh<double>(codes, begin, end) : weigh<float>(codes, begin, end);
}

inline void measure_codes(const Codes& codes, int64_t begin, int64_t end) {
  const int64_t padded = padded_columns(codes.columns);
  const Allocation<float> line(allocate<float>(padded));
  for (int64_t k = begin; k < end; ++k) {
    centred_code(codes, k, line.get());
    F32 peak(0.0f);
    for (int64_t d = 0; d < padded; d += F32::lanes) {
      const F32 c = F32::load(line.get() + d);
      peak = max(peak, max(c, F32(0.0f) - c));
    }
    codes.peaks[k] = reduce_max(peak);
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
    const bool chosen = k < codes.count && codes.weights[k] == codes.weights[k];
    if (chosen) {
      centred_code(codes, k, line.get());
      const Packed code = Pass::pack(line.get(), codes.columns, inverse, 0, words, packed.tile);
      packed.sums[k] = code.sum;
      packed.errors[k] = code.error;
      const double scale = packed.scale;
      packed.starts[k] = codes.cosine ? 0.0f : static_cast<float>(-codes.norms[k] / 2 / scale / scale);
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
