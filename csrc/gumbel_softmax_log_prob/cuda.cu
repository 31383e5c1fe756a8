// CUDA backend of the concrete density.

#include "gumbel_softmax_log_prob/kernels.cuh"
#include "gumbel_softmax_log_prob/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void run(const LogProbArgs& args) const { gumbel_softmax_log_prob_fwd(stream(), args); }
  void run(const LogProbBackwardArgs& args) const { gumbel_softmax_log_prob_bwd(stream(), args); }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("gumbel_softmax_log_prob_fwd.cuda", TORCH_BOX(&dvae::gumbel_softmax_log_prob_fwd<dvae::Cuda>));
  m.impl("gumbel_softmax_log_prob_bwd.cuda", TORCH_BOX(&dvae::gumbel_softmax_log_prob_bwd<dvae::Cuda>));
}
