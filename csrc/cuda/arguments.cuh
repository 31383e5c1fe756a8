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

// The host's side of a call. Rows and columns are not empty.
struct RowCall {
  NoiseArgument noise{};
  const void* tau = nullptr;  // in the compute type
  double tau_value = 0;
  Stream stream{};

  template <class Acc>
  TauArgument<Acc> tau_argument() const {
    return dvae::tau_argument<Acc>(ScalarArgument{tau, tau_value});
  }

  // chunk as from vector_chunk; arrays and state_values as for plan_rows
  template <class Acc, int N>
  RowPlan plan(const RowLayout<N>& layout, int chunk, int arrays, int state_values = 4) const {
    const bool interleave = chunk == 0 && interleaved(layout);
    return plan_rows<Acc>(
        layout.rows(), layout.inner, layout.columns, chunk ? chunk : 4, interleave, arrays, shared_limit(),
        state_values);
  }
};

}  // namespace dvae
