// Untyped tensors and aligned scratch memory, for kernels that do not know torch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/half.h"

namespace dvae {

enum class Storage : uint8_t { float32, float64, bfloat16, half };

template <class T>
inline constexpr Storage storage_of = Storage::float32;
template <>
inline constexpr Storage storage_of<double> = Storage::float64;
template <>
inline constexpr Storage storage_of<BFloat16> = Storage::bfloat16;
template <>
inline constexpr Storage storage_of<Half> = Storage::half;

// Bytes of an element; Scalar is the type that it is computed in.
template <class Scalar>
DVAE_HD int size_of(Storage type) {
  return sizeof(Scalar) == sizeof(double) ? 8 : type == Storage::float32 ? 4 : 2;
}
inline int size_of(Storage type) { return type == Storage::float64 ? 8 : size_of<float>(type); }

// The memory of a tensor; without data where there is none.
struct Buffer {
  void* data = nullptr;
  Storage type = Storage::float32;
};

// A number: `value`, or one in the compute type that lies where the kernel can read it.
struct ScalarArgument {
  const void* data = nullptr;
  double value = 0;
};

// Whether an output is larger than the last-level cache. It is then written past the cache, since it would be evicted
// before anything of it is read.
inline bool is_large(int64_t elements, Storage type) { return elements * size_of(type) >= int64_t{32} << 20; }

// Calls run(T()) with the storage type; Scalar is the type that its elements are computed in.
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class Scalar, class Run>
DVAE_HD void visit(Storage type, const Run& run) {
  if constexpr (sizeof(Scalar) == sizeof(double)) {
    run(double());
  } else if (type == Storage::float32) {
    run(float());
  } else if (type == Storage::bfloat16) {
    run(BFloat16());
  } else {
    run(Half());
  }
}
template <class Run>
void visit(Storage type, const Run& run) {
  type == Storage::float64 ? visit<double>(type, run) : visit<float>(type, run);
}

// Calls run(Narrow(), Wide()) with the types of logits and samples: equal, or float samples of half logits (autocast).
template <class Scalar, class Run>
void visit(Storage narrow, Storage wide, const Run& run) {
  visit<Scalar>(narrow, [&](auto logits) { narrow == wide ? run(logits, logits) : run(logits, Scalar()); });
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Allocation = std::unique_ptr<T[], Free>;

// Uninitialised memory aligned to a cache line, of which there may be nothing.
template <class T>
T* allocate(int64_t count) {
  const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) / 64 + 1) * 64;
  void* p = std::aligned_alloc(64, bytes);
  if (p == nullptr) throw std::bad_alloc();
  return static_cast<T*>(p);
}

}  // namespace dvae
