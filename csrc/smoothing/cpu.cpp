// CPU backend of the smoothing transformations: the ops on torch tensors, in parallel over blocks of elements.

#include "simd/intrinsics.h"

#include "smoothing/tensors.h"
#include "torch/cpu_op.h"
#include "torch/parallel.h"

#define DVAE_OP smoothing
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// Double precision is compiled for one target.
#define DVAE_SMOOTHING(kernel) \
  over_blocks(logits.scalar_type() == ScalarType::Double ? baseline::kernel : DVAE_DISPATCH(kernel))

ScalarArgument one(const std::optional<Tensor>& beta, double value, const Tensor& logits) {
  return host_scalar(one_beta(beta, logits), value, logits);
}

SmoothingKind kind_of(const Name& kind) { return baseline::find_kind<baseline::F64>(kind.text); }

Tensor fwd(Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
           double beta_value, Name kind, int64_t index_offset, ScalarType dtype) {
  return run_smoothing_fwd(
      logits, noise, key, beta, one(beta, beta_value, logits), kind_of(kind), index_offset, dtype,
      DVAE_SMOOTHING(smoothing_fwd));
}

std::tuple<Tensor, Tensor, Tensor> bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
    double beta_value, Name kind, int64_t index_offset, bool beta_grad, bool noise_grad) {
  return run_smoothing_bwd(
      grad, logits, noise, key, beta, one(beta, beta_value, logits), kind_of(kind), index_offset,
      beta_grad, noise_grad, DVAE_SMOOTHING(smoothing_bwd));
}

Tensor log_prob_fwd(Tensor zeta, Tensor logits, std::optional<Tensor> beta, double beta_value, Name kind) {
  return run_smoothing_log_prob_fwd(
      zeta, logits, beta, one(beta, beta_value, logits), kind_of(kind),
      DVAE_SMOOTHING(smoothing_log_prob_fwd));
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor zeta, Tensor logits, std::optional<Tensor> beta,
                                                double beta_value, Name kind, bool beta_grad) {
  return run_smoothing_log_prob_bwd(
      grad, zeta, logits, beta, one(beta, beta_value, logits), kind_of(kind), beta_grad,
      DVAE_SMOOTHING(smoothing_log_prob_bwd));
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("smoothing_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("smoothing_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("smoothing_log_prob_fwd.cpp", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("smoothing_log_prob_bwd.cpp", TORCH_BOX(&dvae::log_prob_bwd));
}
