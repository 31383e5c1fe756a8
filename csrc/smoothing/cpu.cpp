// CPU backend of the smoothing transformations: the ops on torch tensors, in parallel over blocks of elements.

#include "smoothing/cpu.h"

#include "simd/intrinsics.h"

#include <cmath>
#include <tuple>
#include <type_traits>

#include "torch/cpu_op.h"
#include "torch/parallel.h"
#include "common/scalar_math.h"
#include "smoothing/tensors.h"

#define DVAE_OP smoothing
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// Double precision is compiled for one target.
#define DVAE_SMOOTHING(kernel, args) \
  parallel_for_blocks(args.logits.type == Storage::float64 ? baseline::kernel : DVAE_DISPATCH(kernel), args)

void check_kind(const Name& kind) {
  STD_TORCH_CHECK(baseline::is_smoothing_kind<baseline::F64>(kind.text), "smoothing: unknown kind ", kind.text);
}

// One value of beta is looked at here, where it is at hand; those of elements in the kernels.
struct HostBeta {
  std::optional<Tensor> elements;
  double value;

  HostBeta(const std::optional<Tensor>& given, double beta_value, const Tensor& logits) {
    const std::optional<Tensor> beta = checked_beta(given, logits);
    if (one_for_each(beta)) elements = beta;
    value = elements.has_value() ? 1 : HostTemperature(beta, beta_value).value;
    if (compute_type(logits.scalar_type()) == ScalarType::Float) value = static_cast<float>(value);
  }
  bool valid() const { return value > 0 && value < std::numeric_limits<double>::infinity(); }
  SmoothingBeta get() const { return {value, optional_buffer(elements)}; }
};

Tensor fwd(Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
           double beta_value, Name kind, int64_t index_offset, ScalarType dtype) {
  check_kind(kind);
  check_sample_type(logits.scalar_type(), dtype);
  noise = checked_noise(noise, key, logits);
  const NoiseKey noise_key = optional_noise_key(key, logits).value_or(NoiseKey{});
  const HostBeta host_beta(beta, beta_value, logits);
  Tensor zeta = empty_like(logits, dtype);
  if (!host_beta.valid()) return fill(zeta, NAN);
  with_contiguous<2>({logits, zeta}, [&](const std::array<Tensor, 2>& t) {
    const SmoothingArgs args{
        kind.text, buffer_of(t[0]), buffer_of(t[1]), ElementBlocks(logits.numel(), index_offset),
        noise_key, optional_buffer(noise), host_beta.get()};
    DVAE_SMOOTHING(smoothing, args);
  });
  return zeta;
}

std::tuple<Tensor, Tensor, Tensor> bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> noise, std::optional<Tensor> key, std::optional<Tensor> beta,
    double beta_value, Name kind, int64_t index_offset, bool beta_grad, bool noise_grad) {
  check_kind(kind);
  STD_TORCH_CHECK(
      !noise_grad || baseline::noise_has_gradient<baseline::F64>(kind.text), "smoothing: ", kind.text,
      " has no gradient to noise");
  check_sample_type(logits.scalar_type(), grad.scalar_type());
  const ScalarType compute = compute_type(logits.scalar_type());
  noise = checked_noise(noise, key, logits);
  const NoiseKey noise_key = optional_noise_key(key, logits).value_or(NoiseKey{});
  const HostBeta host_beta(beta, beta_value, logits);
  Tensor dlogits = empty_like(logits, logits.scalar_type()), dbeta = new_beta_gradient(logits, beta, beta_grad);
  Tensor dnoise =
      noise_grad ? torch::stable::new_empty(logits, logits.sizes(), compute) : new_vector(logits, 0, compute);
  if (!host_beta.valid()) {
    fill(dlogits, NAN), fill(dbeta, NAN), fill(dnoise, NAN);
  } else {
    with_contiguous<3>({grad, logits, dlogits}, [&](const std::array<Tensor, 3>& t) {
      const SmoothingBackwardArgs args{
          kind.text, buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), ElementBlocks(logits.numel(), index_offset),
          noise_key, optional_buffer(noise), host_beta.get(),
          optional_buffer(dbeta), optional_buffer(dnoise)};
      DVAE_SMOOTHING(smoothing_backward, args);
    });
  }
  if (noise_grad) dnoise = laid_out_like(logits, dnoise);
  return {dlogits, beta_gradient(logits, beta, beta_grad, dbeta), dnoise};
}

Tensor log_prob_fwd(Tensor zeta, Tensor logits, std::optional<Tensor> beta, double beta_value, Name kind) {
  check_kind(kind);
  check_sample_type(logits.scalar_type(), zeta.scalar_type());
  Tensor log_prob = empty_like(zeta, compute_type(zeta.scalar_type()));
  const HostBeta host_beta(beta, beta_value, logits);
  if (!host_beta.valid()) return fill(log_prob, NAN);
  with_contiguous<3>({zeta, logits, log_prob}, [&](const std::array<Tensor, 3>& t) {
    const SmoothingLogProbArgs args{
        kind.text, buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), ElementBlocks(zeta.numel(), 0),
        host_beta.get()};
    DVAE_SMOOTHING(smoothing_log_prob, args);
  });
  return log_prob;
}

std::tuple<Tensor, Tensor, Tensor> log_prob_bwd(Tensor grad, Tensor zeta, Tensor logits, std::optional<Tensor> beta,
                                                double beta_value, Name kind, bool beta_grad) {
  check_kind(kind);
  check_sample_type(logits.scalar_type(), zeta.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(zeta.scalar_type()),
      "smoothing_log_prob: expected grad of the log density's dtype");
  const HostBeta host_beta(beta, beta_value, logits);
  Tensor dzeta = empty_like(zeta, zeta.scalar_type()), dlogits = empty_like(logits, logits.scalar_type());
  Tensor dbeta = new_beta_gradient(logits, beta, beta_grad);
  if (!host_beta.valid()) {
    fill(dzeta, NAN), fill(dlogits, NAN), fill(dbeta, NAN);
  } else {
    with_contiguous<5, 2>({grad, zeta, logits, dzeta, dlogits}, [&](const std::array<Tensor, 5>& t) {
      const SmoothingLogProbBackwardArgs args{
          kind.text, buffer_of(t[0]), buffer_of(t[1]), buffer_of(t[2]), buffer_of(t[3]), buffer_of(t[4]),
          ElementBlocks(zeta.numel(), 0), host_beta.get(), optional_buffer(dbeta)};
      DVAE_SMOOTHING(smoothing_log_prob_backward, args);
    });
  }
  return {dzeta, dlogits, beta_gradient(logits, beta, beta_grad, dbeta)};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("smoothing_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("smoothing_bwd.cpp", TORCH_BOX(&dvae::bwd));
  m.impl("smoothing_log_prob_fwd.cpp", TORCH_BOX(&dvae::log_prob_fwd));
  m.impl("smoothing_log_prob_bwd.cpp", TORCH_BOX(&dvae::log_prob_bwd));
}
