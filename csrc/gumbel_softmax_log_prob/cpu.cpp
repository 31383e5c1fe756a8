// CPU backend of the concrete density, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "gumbel_softmax_log_prob/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP gumbel_softmax_log_prob
#include "simd/foreach_target.h"

namespace dvae {
namespace {

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void run(const LogProbArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(gumbel_softmax_log_prob_fwd), args);
  }
  void run(const LogProbBackwardArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(gumbel_softmax_log_prob_bwd), args);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gumbel_softmax_log_prob_fwd.cpp", TORCH_BOX(&dvae::gumbel_softmax_log_prob_fwd<dvae::Cpu>));
  m.impl("gumbel_softmax_log_prob_bwd.cpp", TORCH_BOX(&dvae::gumbel_softmax_log_prob_bwd<dvae::Cpu>));
}
