// The CUDA kernels of ReinMax and Gumbel-Rao as a CPU library for ctypes.
#include <vector>

#include "shim_call.h"
#include "hard_estimators/kernels.cuh"

using namespace dvae;

extern "C" {

// row_parts: the indices
int shim_reinmax_bwd(const ShimCall* c) {
  return c->with_rows<3>([&](const Rows<3>& rows) {
    reinmax_bwd({}, {rows, c->scalar(), static_cast<const int64_t*>(c->row_parts)});
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
  const bool coalesces = c->with_rows<3>([&](const Rows<3>& rows) {
    const auto* indices = static_cast<const int64_t*>(c->row_parts);
    gumbel_rao_bwd({}, {rows, c->noise(), c->scalar(), indices, draws}, new_sums);
  });
  return coalesces ? path : 0;
}
}
