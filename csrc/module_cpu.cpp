// dvae_kernels._C: the CPU kernels register themselves; here is what is about the module as a whole.

#include <stdexcept>
#include <string>

#include "simd/targets.h"
#include "torch/tensor.h"

namespace dvae {

CpuTarget active_target = best_target();

namespace {

// The instruction set that kernels run on. With a name, switches to it first (for tests), if the CPU has it.
std::string cpu_capability(std::optional<std::string> wanted) {
  if (wanted.has_value()) {
    bool found = false;
    for (CpuTarget target : kCpuTargets) {
      if (*wanted != name(target) || !supported(target)) continue;
      active_target = target;
      found = true;
    }
    STD_TORCH_CHECK(found, "cpu_capability: ", *wanted, " is unknown or not supported by this CPU");
  }
  return name(active_target);
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_FRAGMENT(dvae_kernels, m) { m.def("cpu_capability(str? target=None) -> str"); }

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&dvae::cpu_capability));
}
