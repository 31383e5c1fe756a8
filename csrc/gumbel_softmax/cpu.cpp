// CPU backend of Gumbel-softmax, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "gumbel_softmax/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP gumbel_softmax
#include "simd/foreach_target.h"

namespace dvae {
namespace {

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void run(const GumbelSoftmaxArgs& args) const { parallel_for_tiles(DVAE_DISPATCH(gumbel_softmax_fwd), args); }
  void run(const GumbelSoftmaxBackwardArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(gumbel_softmax_bwd), args, kWholeRows);
  }
  void run(const GumbelSoftmaxRecomputeArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(gumbel_softmax_recompute_bwd), args);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("gumbel_argmax.cpp", TORCH_BOX(&dvae::gumbel_argmax<dvae::Cpu>));
  m.impl("gumbel_onehot.cpp", TORCH_BOX(&dvae::gumbel_onehot<dvae::Cpu>));
  m.impl("gumbel_softmax_fwd.cpp", TORCH_BOX(&dvae::gumbel_softmax_fwd<dvae::Cpu>));
  m.impl("gumbel_softmax_bwd.cpp", TORCH_BOX(&dvae::gumbel_softmax_bwd<dvae::Cpu>));
  m.impl("gumbel_softmax_recompute_bwd.cpp", TORCH_BOX(&dvae::gumbel_softmax_recompute_bwd<dvae::Cpu>));
}
