// CUDA backend of the binary concrete distribution.

#include "binary_concrete/kernels.cuh"
#include "binary_concrete/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void run(const BinaryConcreteArgs& args) const { binary_concrete_fwd(stream(), args); }
  void run(const BinaryConcreteBackwardArgs& args) const { binary_concrete_bwd(stream(), args); }
  void run(const BinaryConcreteLogProbArgs& args) const {
    binary_concrete_log_prob_fwd(stream(), args);
  }
  void run(const BinaryConcreteLogProbBackwardArgs& args) const {
    binary_concrete_log_prob_bwd(stream(), args);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("binary_concrete_fwd.cuda", TORCH_BOX(&dvae::binary_concrete_fwd<dvae::Cuda>));
  m.impl("binary_concrete_bwd.cuda", TORCH_BOX(&dvae::binary_concrete_bwd<dvae::Cuda>));
  m.impl("binary_concrete_log_prob_fwd.cuda", TORCH_BOX(&dvae::binary_concrete_log_prob_fwd<dvae::Cuda>));
  m.impl("binary_concrete_log_prob_bwd.cuda", TORCH_BOX(&dvae::binary_concrete_log_prob_bwd<dvae::Cuda>));
}
