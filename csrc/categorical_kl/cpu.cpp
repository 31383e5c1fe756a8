// CPU backend of the categorical divergence, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "categorical_kl/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP categorical_kl
#include "simd/foreach_target.h"

namespace dvae {
namespace {

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void run(const CategoricalKlArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(categorical_kl_fwd), args);
  }
  void run(const CategoricalKlBackwardArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(categorical_kl_bwd), args);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("categorical_kl_fwd.cpp", TORCH_BOX(&dvae::categorical_kl_fwd<dvae::Cpu>));
  m.impl("categorical_kl_bwd.cpp", TORCH_BOX(&dvae::categorical_kl_bwd<dvae::Cpu>));
}
