// CPU backend of the smoothing transformations, in parallel over blocks of elements.

#include "simd/intrinsics.h"

#include "smoothing/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP smoothing
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// Double precision is compiled for one target.
#define DVAE_SMOOTHING(kernel) \
  parallel_for_blocks(args.logits.type == Storage::float64 ? baseline::kernel : DVAE_DISPATCH(kernel), args)

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  static SmoothingKind kind_of(std::string_view name) { return baseline::find_kind<baseline::F64>(name); }
  void run(const SmoothingArgs& args) const { DVAE_SMOOTHING(smoothing_fwd); }
  void run(const SmoothingBackwardArgs& args) const { DVAE_SMOOTHING(smoothing_bwd); }
  void run(const SmoothingLogProbArgs& args) const { DVAE_SMOOTHING(smoothing_log_prob_fwd); }
  void run(const SmoothingLogProbBackwardArgs& args) const { DVAE_SMOOTHING(smoothing_log_prob_bwd); }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("smoothing_fwd.cpp", TORCH_BOX(&dvae::smoothing_fwd<dvae::Cpu>));
  m.impl("smoothing_bwd.cpp", TORCH_BOX(&dvae::smoothing_bwd<dvae::Cpu>));
  m.impl("smoothing_log_prob_fwd.cpp", TORCH_BOX(&dvae::smoothing_log_prob_fwd<dvae::Cpu>));
  m.impl("smoothing_log_prob_bwd.cpp", TORCH_BOX(&dvae::smoothing_log_prob_bwd<dvae::Cpu>));
}
