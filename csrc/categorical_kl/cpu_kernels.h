// The categorical divergence, written once over the SIMD layer: the entries, by layout, compute type and prior.

#ifndef DVAE_TARGET  // for an editor
#include "categorical_kl/arguments.h"
#include "simd/editor.h"
#endif

#include "categorical_kl/cpu_terms.h"

#include "categorical_kl/cpu_columns.h"
#include "categorical_kl/cpu_rows.h"

void categorical_kl_fwd(const CategoricalKlArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  const auto run = [&](auto prior) {
    run_rows(
        tiles, [&](auto f) { kl_rows<decltype(f), prior()>(args, tiles, begin, end); },
        [&] { kl_columns<prior()>(args, tiles, begin, end); });
  };
  args.has_prior ? run(std::true_type()) : run(std::false_type());
}

void categorical_kl_bwd(const CategoricalKlBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  const auto run = [&](auto prior) {
    run_rows(
        tiles, [&](auto f) { kl_backward_rows<decltype(f), prior()>(args, tiles, begin, end); },
        [&] { kl_backward_columns<prior()>(args, tiles, begin, end); });
  };
  args.has_prior ? run(std::true_type()) : run(std::false_type());
}
