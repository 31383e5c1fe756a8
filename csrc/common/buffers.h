// Untyped tensors and aligned scratch memory, for kernels that do not know torch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/numerics.h"

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

inline int size_of(Storage type) {
  return type == Storage::float64 ? 8 : type == Storage::float32 ? 4 : 2;
}

struct Buffer {
  void* data;
  Storage type;
};

// Calls run(T()) with the type of the elements; Scalar is what they are computed in.
template <class Scalar, class Run>
void with_storage(Storage type, const Run& run) {
  if constexpr (sizeof(Scalar) == sizeof(double)) {
    run(double());
  } else if (type == Storage::bfloat16) {
    run(BFloat16());
  } else if (type == Storage::half) {
    run(Half());
  } else {
    run(float());
  }
}

// Calls run(Narrow(), Wide()) with the types of logits and samples: equal, or float samples of half logits (autocast).
template <class Scalar, class Run>
void with_storages(Storage narrow, Storage wide, const Run& run) {
  with_storage<Scalar>(narrow, [&](auto logits) { narrow == wide ? run(logits, logits) : run(logits, Scalar()); });
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
