// CPU backend of the categorical divergence: the ops on torch tensors, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "categorical_kl/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP categorical_kl
#include "simd/foreach_target.h"

namespace dvae {
namespace {

Tensor fwd(Tensor logits, std::optional<Tensor> prior, int64_t dim) {
  return run_categorical_kl_fwd(logits, prior, dim, over_tiles(DVAE_DISPATCH(categorical_kl_fwd)));
}

std::tuple<Tensor, Tensor> bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> prior, int64_t dim, bool prior_grad) {
  return run_categorical_kl_bwd(
      grad, logits, prior, dim, prior_grad, over_tiles(DVAE_DISPATCH(categorical_kl_bwd)));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("categorical_kl_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("categorical_kl_bwd.cpp", TORCH_BOX(&dvae::bwd));
}
