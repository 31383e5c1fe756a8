// CPU backend of vector_quantize.

#include "simd/intrinsics.h"

#include "torch/cpu_op.h"
#include "vector_quantize/tensors.h"

#define DVAE_OP vector_quantize
#include "simd/foreach_target.h"

namespace dvae {
namespace {

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void run(const QuantizeArgs& args) const { parallel_for_rows(DVAE_DISPATCH(vector_quantize_fwd), args); }
  void run(const QuantizeBackwardArgs& args) const {
    parallel_for_rows(DVAE_DISPATCH(vector_quantize_bwd), args);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("vector_quantize_fwd.cpp", TORCH_BOX(&dvae::vector_quantize_fwd<dvae::Cpu>));
  m.impl("vector_quantize_bwd.cpp", TORCH_BOX(&dvae::vector_quantize_bwd<dvae::Cpu>));
}
