// CPU backend of Gumbel-softmax: the ops on torch tensors, run in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include <cmath>
#include <tuple>

#include "gumbel_softmax/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP gumbel_softmax
#include "simd/foreach_target.h"

namespace dvae {
namespace {

const auto run_fwd = [](const GumbelSoftmaxArgs& args) { parallel_for_tiles(args, DVAE_DISPATCH(gumbel_softmax_fwd)); };

Tensor argmax(Tensor logits, Tensor key, int64_t dim, int64_t row_offset) {
  const GumbelSoftmaxTensors tensors(logits, key, dim, row_offset, std::nullopt, true);
  tensors.run({}, true, run_fwd);
  return *tensors.index;
}

std::tuple<Tensor, Tensor> onehot(Tensor logits, Tensor key, int64_t dim, int64_t row_offset, ScalarType dtype) {
  const GumbelSoftmaxTensors tensors(logits, key, dim, row_offset, dtype, true);
  tensors.run({}, true, run_fwd);
  return {*tensors.sample, *tensors.index};
}

Tensor fwd(Tensor logits, Tensor key, std::optional<Tensor> tau, double tau_value, int64_t dim, bool hard,
           int64_t row_offset, ScalarType dtype) {
  const GumbelSoftmaxTensors tensors(logits, key, dim, row_offset, dtype, false);
  const Tau temperature = host_tau(tau, tau_value);
  if (!temperature.valid()) return fill(*tensors.sample, NAN);
  tensors.run(temperature, hard || temperature.zero(), run_fwd);
  return *tensors.sample;
}

Tensor bwd(Tensor grad, Tensor y, std::optional<Tensor> tau, double tau_value, int64_t dim, ScalarType dtype) {
  const GumbelSoftmaxBackwardTensors tensors(grad, y, dim, dtype);
  const Tau temperature = host_tau(tau, tau_value);
  if (!temperature.valid()) return fill(tensors.dlogits, NAN);
  if (temperature.zero()) return fill(tensors.dlogits, 0);
  tensors.run(temperature, [](const GumbelSoftmaxBackwardArgs& args) {
    parallel_for_tiles(args, DVAE_DISPATCH(gumbel_softmax_bwd), kWholeRows);
  });
  return tensors.dlogits;
}

std::tuple<Tensor, Tensor> recompute_bwd(
    Tensor grad, Tensor logits, std::optional<Tensor> key, std::optional<Tensor> tau, double tau_value, int64_t dim,
    int64_t row_offset, bool tau_grad) {
  const GumbelSoftmaxRecomputeTensors tensors(grad, logits, key, dim, row_offset, tau_grad);
  const Tau temperature = host_tau(tau, tau_value);
  if (!temperature.valid()) return {fill(tensors.dlogits, NAN), fill(tensors.dtau_rows, NAN)};
  if (temperature.zero()) return {fill(tensors.dlogits, 0), fill(tensors.dtau_rows, 0)};
  tensors.run(temperature, [](const GumbelSoftmaxRecomputeArgs& args) {
    parallel_for_tiles(args, DVAE_DISPATCH(gumbel_softmax_recompute_bwd));
  });
  return {tensors.dlogits, tensors.dtau_rows};
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
