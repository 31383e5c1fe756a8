// CPU backend of Gumbel-softmax: the ops on torch tensors, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "gumbel_softmax/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP gumbel_softmax
#include "simd/foreach_target.h"

namespace dvae {
namespace {

Tensor argmax(Tensor logits, Tensor key, int64_t dim, int64_t row_offset) {
  return run_gumbel_argmax(logits, key, dim, row_offset, over_tiles(DVAE_DISPATCH(gumbel_softmax_fwd)));
}

std::tuple<Tensor, Tensor> onehot(Tensor logits, Tensor key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  return run_gumbel_onehot(logits, key, dim, row_offset, dtype, over_tiles(DVAE_DISPATCH(gumbel_softmax_fwd)));
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  return run_gumbel_softmax_fwd(
      logits, key, host_scalar(tau, tau_value, logits), dim, hard, row_offset, dtype,
      over_tiles(DVAE_DISPATCH(gumbel_softmax_fwd)));
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  return run_gumbel_softmax_bwd(
      grad, y, host_scalar(tau, tau_value, y), dim, dtype, over_tiles(DVAE_DISPATCH(gumbel_softmax_bwd), kWholeRows));
}

std::tuple<Tensor, Tensor> recompute_bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> key, std::optional<Tensor> tau, double tau_value, int64_t dim,
    int64_t row_offset, bool tau_grad) {
  return run_gumbel_softmax_recompute_bwd(
      grad, logits, key, host_scalar(tau, tau_value, logits), dim, row_offset, tau_grad,
      over_tiles(DVAE_DISPATCH(gumbel_softmax_recompute_bwd)));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gumbel_argmax.cpp", TORCH_BOX(&dvae::argmax));
  m.impl("gumbel_onehot.cpp", TORCH_BOX(&dvae::onehot));
  m.impl("gumbel_softmax_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("gumbel_softmax_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("gumbel_softmax_recompute_bwd.cpp", TORCH_BOX(&dvae::recompute_bwd));
}
