// CUDA backend of Gumbel-softmax.

#include "gumbel_softmax/kernels.cuh"
#include "gumbel_softmax/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void run(const GumbelSoftmaxArgs& args) const { gumbel_softmax_fwd(stream(), args); }
  void run(const GumbelSoftmaxBackwardArgs& args) const { gumbel_softmax_bwd(stream(), args); }
  void run(const GumbelSoftmaxRecomputeArgs& args) const { gumbel_softmax_recompute_bwd(stream(), args); }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gumbel_argmax.cuda", TORCH_BOX(&dvae::gumbel_argmax<dvae::Cuda>));
  m.impl("gumbel_onehot.cuda", TORCH_BOX(&dvae::gumbel_onehot<dvae::Cuda>));
  m.impl("gumbel_softmax_fwd.cuda", TORCH_BOX(&dvae::gumbel_softmax_fwd<dvae::Cuda>));
  m.impl("gumbel_softmax_bwd.cuda", TORCH_BOX(&dvae::gumbel_softmax_bwd<dvae::Cuda>));
  m.impl("gumbel_softmax_recompute_bwd.cuda", TORCH_BOX(&dvae::gumbel_softmax_recompute_bwd<dvae::Cuda>));
}
