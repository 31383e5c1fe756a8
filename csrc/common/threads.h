// How kernels share out work to threads without knowing whose threads they are.
#pragma once

#include <cstdint>

namespace dvae {

// A reference to a callable body(begin, end); it must not outlive the callable.
class RangeBody {
 public:
  template <class Body>
  explicit RangeBody(const Body& body)
      : body_(&body), call_([](const void* body, int64_t begin, int64_t end) {
          (*static_cast<const Body*>(body))(begin, end);
        }) {}

  void operator()(int64_t begin, int64_t end) const { call_(body_, begin, end); }

 private:
  const void* body_;
  void (*call_)(const void*, int64_t, int64_t);
};

// Runs body over ranges of [0, count) of at least `grain`, on threads. The torch layer hands it down.
using ParallelFor = void (*)(int64_t count, int64_t grain, const RangeBody& body);

}  // namespace dvae
