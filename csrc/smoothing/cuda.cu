// CUDA backend of the smoothing transformations.

#include "smoothing/kernels.cuh"
#include "smoothing/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  static SmoothingKind kind_of(std::string_view name) { return find_kind<float>(name); }
  void run(const SmoothingArgs& args) const { smoothing_fwd(stream(), args); }
  void run(const SmoothingBackwardArgs& args) const { smoothing_bwd(stream(), args); }
  void run(const SmoothingLogProbArgs& args) const { smoothing_log_prob_fwd(stream(), args); }
  void run(const SmoothingLogProbBackwardArgs& args) const { smoothing_log_prob_bwd(stream(), args); }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("smoothing_fwd.cuda", TORCH_BOX(&dvae::smoothing_fwd<dvae::Cuda>));
  m.impl("smoothing_bwd.cuda", TORCH_BOX(&dvae::smoothing_bwd<dvae::Cuda>));
  m.impl("smoothing_log_prob_fwd.cuda", TORCH_BOX(&dvae::smoothing_log_prob_fwd<dvae::Cuda>));
  m.impl("smoothing_log_prob_bwd.cuda", TORCH_BOX(&dvae::smoothing_log_prob_bwd<dvae::Cuda>));
}
