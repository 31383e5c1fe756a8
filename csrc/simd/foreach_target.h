// Includes DVAE_KERNELS (a header without include guard) once per CPU target: inside namespace dvae::<target>, behind
// the SIMD layer of the target, in an anonymous namespace, so that no two ops share a name. Target pragmas rather than
// compiler flags: code of a higher target can then not leak through inline functions of the standard library, whose
// headers must all be included before this one.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/elements.h"
#include "common/indices.h"
#include "common/noise.h"
#include "common/rows.h"
#include "common/scalar_math.h"
#include "simd/intrinsics.h"
#include "simd/tables.h"

#if defined(__clang__)
#define DVAE_TARGET_BEGIN(features) \
  _Pragma(DVAE_STRING(clang attribute push(__attribute__((target(features))), apply_to = function)))
#define DVAE_TARGET_END _Pragma("clang attribute pop")
#else
#define DVAE_TARGET_BEGIN(features) _Pragma("GCC push_options") _Pragma(DVAE_STRING(GCC target(features)))
#define DVAE_TARGET_END _Pragma("GCC pop_options")
#endif
#define DVAE_STRING(...) #__VA_ARGS__

#if defined(__x86_64__)

#define DVAE_TARGET avx512
#define DVAE_SIMD_AVX512 1
DVAE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace dvae::avx512 {
#include "simd/layer.h"
namespace {
#include DVAE_KERNELS
}  // namespace
}  // namespace dvae::avx512
DVAE_TARGET_END
#undef DVAE_SIMD_AVX512
#undef DVAE_TARGET

#define DVAE_TARGET avx2
#define DVAE_SIMD_AVX2 1
DVAE_TARGET_BEGIN("avx2,fma,f16c")
namespace dvae::avx2 {
#include "simd/layer.h"
namespace {
#include DVAE_KERNELS
}  // namespace
}  // namespace dvae::avx2
DVAE_TARGET_END
#undef DVAE_SIMD_AVX2
#undef DVAE_TARGET

#endif

#define DVAE_TARGET baseline
#define DVAE_SIMD_BASELINE 1
namespace dvae::baseline {
#include "simd/layer.h"
namespace {
#include DVAE_KERNELS
}  // namespace
}  // namespace dvae::baseline
#undef DVAE_SIMD_BASELINE
#undef DVAE_TARGET
