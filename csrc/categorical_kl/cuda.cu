// CUDA backend of the categorical divergence.

#include "categorical_kl/kernels.cuh"
#include "categorical_kl/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void run(const CategoricalKlArgs& args) const { categorical_kl_fwd(stream(), args); }
  void run(const CategoricalKlBackwardArgs& args) const { categorical_kl_bwd(stream(), args); }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("categorical_kl_fwd.cuda", TORCH_BOX(&dvae::categorical_kl_fwd<dvae::Cuda>));
  m.impl("categorical_kl_bwd.cuda", TORCH_BOX(&dvae::categorical_kl_bwd<dvae::Cuda>));
}
