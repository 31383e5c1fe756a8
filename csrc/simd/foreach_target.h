// Includes the kernels of DVAE_OP, the name of its folder, once per CPU target: <op>/cpu_kernels.h, a header without
// include guard, stands behind the SIMD layer of the target in a namespace of its own inside dvae::<target>, so that no
// two ops share a name. The namespace is not anonymous: what is inlined into what, and so what GCC fuses into one
// multiply-add, would change. Target pragmas rather than compiler flags: code of a higher target can then not leak through
// inline functions of the standard library, whose headers must all be included before this one.

#include "simd/common.h"

#if defined(__clang__)
#define DVAE_TARGET_BEGIN(features) \
  _Pragma(DVAE_STRING(clang attribute push(__attribute__((target(features))), apply_to = function)))
#define DVAE_TARGET_END _Pragma("clang attribute pop")
#else
#define DVAE_TARGET_BEGIN(features) _Pragma("GCC push_options") _Pragma(DVAE_STRING(GCC target(features)))
#define DVAE_TARGET_END _Pragma("GCC pop_options")
#endif
#define DVAE_STRING(...) DVAE_LITERAL(__VA_ARGS__)
#define DVAE_LITERAL(...) #__VA_ARGS__
#define DVAE_KERNELS_OF(op) DVAE_PASTE(op, _kernels)
#define DVAE_PASTE(a, b) a##b

#if defined(__x86_64__)

#define DVAE_TARGET avx512
#define DVAE_SIMD_AVX512 1
DVAE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace dvae::avx512 {
#include "simd/layer.h"
inline namespace DVAE_KERNELS_OF(DVAE_OP) {
#include DVAE_STRING(DVAE_OP/cpu_kernels.h)
}
}  // namespace dvae::avx512
DVAE_TARGET_END
#undef DVAE_SIMD_AVX512
#undef DVAE_TARGET

#define DVAE_TARGET avx2
#define DVAE_SIMD_AVX2 1
DVAE_TARGET_BEGIN("avx2,fma,f16c")
namespace dvae::avx2 {
#include "simd/layer.h"
inline namespace DVAE_KERNELS_OF(DVAE_OP) {
#include DVAE_STRING(DVAE_OP/cpu_kernels.h)
}
}  // namespace dvae::avx2
DVAE_TARGET_END
#undef DVAE_SIMD_AVX2
#undef DVAE_TARGET

#endif

#define DVAE_TARGET baseline
#define DVAE_SIMD_BASELINE 1
namespace dvae::baseline {
#include "simd/layer.h"
inline namespace DVAE_KERNELS_OF(DVAE_OP) {
#include DVAE_STRING(DVAE_OP/cpu_kernels.h)
}
}  // namespace dvae::baseline
#undef DVAE_SIMD_BASELINE
#undef DVAE_TARGET
