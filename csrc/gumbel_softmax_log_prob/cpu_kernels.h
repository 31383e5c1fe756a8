// The concrete density, written once over the SIMD layer: the entries, by layout and compute type.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax_log_prob/arguments.h"
#include "simd/editor.h"
#endif

#include "gumbel_softmax_log_prob/cpu_terms.h"

#include "gumbel_softmax_log_prob/cpu_columns.h"
#include "gumbel_softmax_log_prob/cpu_rows.h"

void gumbel_softmax_log_prob_fwd(const LogProbArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  run_rows(
      tiles, [&](auto f) { log_prob_rows<decltype(f)>(args, tiles, begin, end); },
      [&] { log_prob_columns(args, tiles, begin, end); });
}

void gumbel_softmax_log_prob_bwd(const LogProbBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  run_rows(
      tiles, [&](auto f) { log_prob_backward_rows<decltype(f)>(args, tiles, begin, end); },
      [&] { log_prob_backward_columns(args, tiles, begin, end); });
}
