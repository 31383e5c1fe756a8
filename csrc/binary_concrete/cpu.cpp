// CPU backend of the binary concrete distribution, in parallel over blocks of elements.

#include "simd/intrinsics.h"

#include "binary_concrete/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP binary_concrete
#include "simd/foreach_target.h"

namespace dvae {
namespace {

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void run(const BinaryConcreteArgs& args) const {
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_fwd), args);
  }
  void run(const BinaryConcreteBackwardArgs& args) const {
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_bwd), args);
  }
  void run(const BinaryConcreteLogProbArgs& args) const {
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_log_prob_fwd), args);
  }
  void run(const BinaryConcreteLogProbBackwardArgs& args) const {
    parallel_for_blocks(DVAE_DISPATCH(binary_concrete_log_prob_bwd), args);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("binary_concrete_fwd.cpp", TORCH_BOX(&dvae::binary_concrete_fwd<dvae::Cpu>));
  m.impl("binary_concrete_bwd.cpp", TORCH_BOX(&dvae::binary_concrete_bwd<dvae::Cpu>));
  m.impl("binary_concrete_log_prob_fwd.cpp", TORCH_BOX(&dvae::binary_concrete_log_prob_fwd<dvae::Cpu>));
  m.impl("binary_concrete_log_prob_bwd.cpp", TORCH_BOX(&dvae::binary_concrete_log_prob_bwd<dvae::Cpu>));
}
