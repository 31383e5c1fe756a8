// CUDA backend of ReinMax and Gumbel-Rao.

#include "hard_estimators/kernels.cuh"
#include "hard_estimators/tensors.h"
#include "torch/cuda_op.h"

namespace dvae {
namespace {

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void check_indices(const Tensor&, int64_t) const {}  // the kernels do
  void run(const ReinmaxArgs& args) const { reinmax_bwd(stream(), args); }
  void run(const GumbelRaoArgs& args) const {
    Tensor sums;  // alive until the kernel is launched
    gumbel_rao_bwd(stream(), args, [&](int64_t count) {
      sums = new_vector(like, count, compute_type(like.scalar_type()));
      return sums.mutable_data_ptr();
    });
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("reinmax_bwd.cuda", TORCH_BOX(&dvae::reinmax_bwd<dvae::Cuda>));
  m.impl("gumbel_rao_bwd.cuda", TORCH_BOX(&dvae::gumbel_rao_bwd<dvae::Cuda>));
}
