// The arguments that CUDA row kernels share, and the host's side of a call; nothing here needs torch.
#pragma once

#include "common/temperature.h"
#include "cuda/launch.cuh"
#include "cuda/noise.cuh"
#include "cuda/reduce.cuh"

namespace dvae {

// Blocks of the largest size that fit on a multiprocessor: two leave 64 registers a thread, one leaves 128.
template <class Acc>
constexpr int kMinBlocks = sizeof(Acc) == 4 ? 2 : 1;

// The temperature is a scalar in device memory, or `value` without one.
template <class Acc>
struct TauArgument {
  const Acc* pointer;
  Acc value;

  __device__ Acc get() const { return pointer ? *pointer : value; }
  __device__ Temperature<Acc> temperature() const { return Temperature<Acc>(get()); }
};

template <class Acc>
TauArgument<Acc> tau_argument(const ScalarArgument& tau) {
  return {static_cast<const Acc*>(tau.data), static_cast<Acc>(tau.value)};
}

}  // namespace dvae
