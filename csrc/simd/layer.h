// The SIMD layer of one target, in the order in which its headers build on each other. foreach_target.h includes it once
// per target, inside namespace dvae::<target>; none of these headers has an include guard, and no kernel file includes
// one of them.

#if DVAE_SIMD_AVX512
#include "simd/avx512.h"
#elif DVAE_SIMD_AVX2
#include "simd/avx2.h"
#else
#include "simd/baseline.h"
#endif
#include "simd/doubles.h"
#include "simd/integers.h"
#include "simd/math.h"
#include "simd/rows.h"
#include "simd/noise.h"
#include "simd/chunks.h"
#include "simd/columns.h"
#include "simd/elements.h"
#include "simd/softmax.h"
#include "simd/chunked_softmax.h"
#include "simd/argmax.h"
