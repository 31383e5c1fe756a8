// The gradients of ReinMax and Gumbel-Rao, written once over the SIMD layer: the entries, by compute type.

#ifndef DVAE_TARGET  // for an editor
#include "hard_estimators/arguments.h"
#include "simd/editor.h"
#endif

#include "hard_estimators/cpu_rows.h"

void reinmax_bwd(const ReinmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  tiles.doubles ? reinmax_rows<F64>(args, tiles, begin, end) : reinmax_rows<F32>(args, tiles, begin, end);
}

void gumbel_rao_bwd(const GumbelRaoArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  tiles.doubles ? gumbel_rao_rows<F64>(args, tiles, begin, end) : gumbel_rao_rows<F32>(args, tiles, begin, end);
}
