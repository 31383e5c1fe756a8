// What host and device code share before anything else.
#pragma once

#include <cstring>

#ifdef __CUDACC__
#define DVAE_HD __host__ __device__
#define DVAE_INLINE __host__ __device__ __forceinline__
#else
#define DVAE_HD
#define DVAE_INLINE [[gnu::always_inline]] inline
#endif

namespace dvae {

template <typename To, typename From>
DVAE_HD inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace dvae
