// Untyped tensors and aligned scratch memory, for kernels that do not know torch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/storage.h"

namespace dvae {

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
