// Includes DVAE_KERNELS (a header without include guard) once per CPU target, inside namespace dvae::<target>, with
// the layer of <target>.h. Target pragmas rather than compiler flags: code of a higher target can then not
// leak through inline functions of the standard library, all of whose headers must be included before this one.

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

#include "simd/intrinsics.h"
#include "common/numerics.h"
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

#define DVAE_SIMD_AVX512 1
DVAE_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace dvae::avx512 {
#include "simd/avx512.h"
#include "simd/math.h"
#include DVAE_KERNELS
}  // namespace dvae::avx512
DVAE_TARGET_END
#undef DVAE_SIMD_AVX512

DVAE_TARGET_BEGIN("avx2,fma,f16c")
namespace dvae::avx2 {
#include "simd/avx2.h"
#include "simd/math.h"
#include DVAE_KERNELS
}  // namespace dvae::avx2
DVAE_TARGET_END

#endif

#define DVAE_SIMD_BASELINE 1
namespace dvae::baseline {
#include "simd/baseline.h"
#include "simd/math.h"
#include DVAE_KERNELS
}  // namespace dvae::baseline
#undef DVAE_SIMD_BASELINE
