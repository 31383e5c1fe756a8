// CPU targets: one kernel source, compiled once per instruction set, chosen at run time.
#pragma once

#include <cstring>

namespace dvae {

// In ascending order. avx512_vnni runs the kernels of avx512, some of which then take dot products of integers.
enum class CpuTarget { baseline, avx2, avx512, avx512_vnni };
constexpr CpuTarget kCpuTargets[]{CpuTarget::baseline, CpuTarget::avx2, CpuTarget::avx512, CpuTarget::avx512_vnni};

inline const char* name(CpuTarget target) {
  constexpr const char* names[]{"baseline", "avx2", "avx512", "avx512_vnni"};
  return names[static_cast<int>(target)];
}

inline bool has_avx512(CpuTarget target) { return target >= CpuTarget::avx512; }

// Floats in a vector.
inline int float_lanes(CpuTarget target) { return has_avx512(target) ? 16 : target == CpuTarget::avx2 ? 8 : 4; }

inline bool supported(CpuTarget target) {
#if defined(__x86_64__)
  switch (target) {
    case CpuTarget::avx512_vnni:
      return __builtin_cpu_supports("avx512vnni") && supported(CpuTarget::avx512);
    case CpuTarget::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             supported(CpuTarget::avx2);
    case CpuTarget::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    default:
      return true;
  }
#else
  return target == CpuTarget::baseline;
#endif
}

inline CpuTarget best_target() {
  CpuTarget best = CpuTarget::baseline;
  for (CpuTarget target : kCpuTargets) {
    if (supported(target)) best = target;
  }
  return best;
}

// The target that kernels run on; tests set it to a lesser one. Defined in module_cpu.cpp.
extern CpuTarget active_target;

}  // namespace dvae
