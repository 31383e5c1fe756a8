// CPU targets: one kernel source, compiled once per instruction set, chosen at run time.
#pragma once

#include <cstring>

namespace dvae {

enum class CpuTarget { baseline, avx2, avx512 };

inline const char* name(CpuTarget target) {
  return target == CpuTarget::avx512 ? "avx512" : target == CpuTarget::avx2 ? "avx2" : "baseline";
}

// Floats in a vector.
inline int float_lanes(CpuTarget target) {
  return target == CpuTarget::avx512 ? 16 : target == CpuTarget::avx2 ? 8 : 4;
}

inline bool supported(CpuTarget target) {
#if defined(__x86_64__)
  switch (target) {
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
  for (CpuTarget target : {CpuTarget::avx512, CpuTarget::avx2}) {
    if (supported(target)) return target;
  }
  return CpuTarget::baseline;
}

// The target that kernels run on; tests set it to a lesser one. Defined in module_cpu.cpp.
extern CpuTarget active_target;

}  // namespace dvae
