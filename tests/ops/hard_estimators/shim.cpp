// The CUDA kernels of ReinMax and Gumbel-Rao as a CPU library for ctypes.
#include <vector>

#include "shim_call.h"
#include "hard_estimators/kernels.cuh"

using namespace dvae;

extern "C" {

// row_parts: the indices
int shim_reinmax_bwd(const ShimCall* c) {
  return c->with_layout<3>([&](const auto& layout, const auto& t) {
    reinmax_bwd(c->row_call(), layout, t, static_cast<const int64_t*>(c->row_parts));
  });
}

// Sums start as NaN. Returns 1 for rows that fit on chip, 2 for wide ones.
int shim_gumbel_rao_bwd(const ShimCall* c, int draws) {
  int path = 1;
  std::vector<double> sums;
  const auto new_sums = [&](int64_t count) {
    path = 2;
    sums.assign(count, kNaN<double>);
    return static_cast<void*>(sums.data());
  };
  const bool collapses = c->with_layout<3>([&](const auto& layout, const auto& t) {
    gumbel_rao_bwd(c->row_call(), layout, t, static_cast<const int64_t*>(c->row_parts), draws, new_sums);
  });
  return collapses ? path : 0;
}
}
