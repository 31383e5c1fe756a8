// CPU backend of ReinMax and Gumbel-Rao, in parallel over tiles of rows.

#include "simd/intrinsics.h"

#include "hard_estimators/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP hard_estimators
#include "simd/foreach_target.h"

namespace dvae {
namespace {

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  // Kernels look up what stands at the index of a row.
  void check_indices(const Tensor& indices, int64_t columns) const {
    const int64_t *begin = index_data(indices), *end = begin + indices.numel();
    STD_TORCH_CHECK(
        std::all_of(begin, end, [=](int64_t i) { return i < columns; }),
        "dvae_kernels: expected indices below the number of categories");
  }
  void run(const ReinmaxArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(reinmax_bwd), args, kNeverInterleaved);
  }
  void run(const GumbelRaoArgs& args) const {
    parallel_for_tiles(DVAE_DISPATCH(gumbel_rao_bwd), args, kNeverInterleaved);
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("reinmax_bwd.cpp", TORCH_BOX(&dvae::reinmax_bwd<dvae::Cpu>));
  m.impl("gumbel_rao_bwd.cpp", TORCH_BOX(&dvae::gumbel_rao_bwd<dvae::Cpu>));
}
