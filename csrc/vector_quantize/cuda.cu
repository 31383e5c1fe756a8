// CUDA backend of vector_quantize.

#include "torch/cuda_op.h"
#include "vector_quantize/kernels.cuh"
#include "vector_quantize/tensors.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void run(const QuantizeArgs& args) const { vector_quantize_fwd(stream(), args); }
  void run(const QuantizeBackwardArgs& args) const { vector_quantize_bwd(stream(), args); }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("vector_quantize_fwd.cuda", TORCH_BOX(&dvae::vector_quantize_fwd<dvae::Cuda>));
  m.impl("vector_quantize_bwd.cuda", TORCH_BOX(&dvae::vector_quantize_bwd<dvae::Cuda>));
}
