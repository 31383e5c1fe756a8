// The Gumbel-softmax kernels, written once over the SIMD layer: the entries, by layout and compute type.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax/arguments.h"
#include "simd/editor.h"
#endif

#include "gumbel_softmax/cpu_columns.h"
#include "gumbel_softmax/cpu_rows.h"

void gumbel_softmax_fwd(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  if (args.rows.tensors[1].data == nullptr) {
    run_rows(
        tiles, [&](auto f) { argmax_rows<decltype(f)>(args, tiles, begin, end); },
        [&] { argmax_columns(args, tiles, begin, end); });
  } else if (args.hard) {
    run_rows(
        tiles, [&](auto f) { hard_rows<decltype(f)>(args, tiles, begin, end); },
        [&] { hard_columns(args, tiles, begin, end); });
  } else {
    run_rows(
        tiles, [&](auto f) { soft_rows<decltype(f)>(args, tiles, begin, end); },
        [&] { soft_columns(args, tiles, begin, end); });
  }
}

void gumbel_softmax_bwd(const GumbelSoftmaxBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  run_rows(
      tiles, [&](auto f) { backward_rows<decltype(f)>(args, tiles, begin, end); },
      [&] { backward_columns(args, tiles, begin, end); });
}

void gumbel_softmax_recompute_bwd(
    const GumbelSoftmaxRecomputeArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  run_rows(
      tiles, [&](auto f) { recompute_backward_rows<decltype(f)>(args, tiles, begin, end); },
      [&] { recompute_backward_columns(args, tiles, begin, end); });
}
