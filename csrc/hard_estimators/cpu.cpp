// CPU backend of ReinMax and Gumbel-Rao: the ops on torch tensors, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "hard_estimators/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP hard_estimators
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// Kernels look up what stands at the index of a row.
Tensor checked_index(const Tensor& given, const Tensor& logits, int64_t dim) {
  const Tensor index = contiguous_index(given, logits, dim);
  const int64_t *begin = index_data(index), *end = begin + index.numel();
  const int64_t columns = logits.size(dim);
  STD_TORCH_CHECK(
      std::all_of(begin, end, [=](int64_t i) { return i < columns; }),
      "dvae_kernels: expected indices below the number of categories");
  return index;
}

Tensor reinmax(Tensor grad, Tensor logits, Tensor index, std::optional<Tensor> tau, double tau_value, int64_t dim) {
  return run_reinmax_bwd(
      grad, logits, checked_index(index, logits, dim), host_scalar(tau, tau_value, logits), dim,
      over_tiles(DVAE_DISPATCH(reinmax_bwd), kNeverInterleaved));
}

Tensor gumbel_rao(Tensor grad, Tensor logits, Tensor key, Tensor index, std::optional<Tensor> tau, double tau_value,
                  int64_t dim, int64_t draws, int64_t row_offset) {
  return run_gumbel_rao_bwd(
      grad, logits, key, checked_index(index, logits, dim), host_scalar(tau, tau_value, logits), dim, draws, row_offset,
      over_tiles(DVAE_DISPATCH(gumbel_rao_bwd), kNeverInterleaved));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("reinmax_bwd.cpp", TORCH_BOX(&dvae::reinmax));
  m.impl("gumbel_rao_bwd.cpp", TORCH_BOX(&dvae::gumbel_rao));
}
