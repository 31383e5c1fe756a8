// Reductions over the threads of a row, in an order that depends on the plan alone.
#pragma once

#include "cuda/plan.cuh"

namespace dvae {

template <class T>
__device__ T shuffle_xor(const T& value, int mask) {
  static_assert(sizeof(T) % 4 == 0, "shuffles move whole words");
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (uint32_t& word : words) word = __shfl_xor_sync(0xffffffffu, word, mask);
  T other;
  memcpy(&other, words, sizeof(T));
  return other;
}

// Merges the states of all threads of each row, in an order that depends on the plan alone; every thread of the block
// calls it. Where a row spans warps, `scratch` has room for (warps * rows) states, used by this call only.
// What was written to shared memory before is visible to the row's threads afterwards.
template <class State, class Merge>
__device__ State reduce_row(
    const RowPlan& plan, const RowPlace& place, State state, unsigned char* scratch, const Merge& merge) {
  const int block_rows = 1 << plan.rows_log2;
  const int begin = plan.interleaved ? block_rows : 1;
  const int end = plan.interleaved || place.lanes > kWarp ? kWarp : static_cast<int>(place.lanes);
#pragma unroll 1
  for (int mask = begin; mask < end; mask *= 2) merge(state, shuffle_xor(state, mask));
  const int warps = 1 << (plan.lanes_log2 + plan.rows_log2 - 5);
  if (warps == 1 || (!plan.interleaved && place.lanes <= kWarp)) {
    __syncwarp();
    return state;
  }
  State* partial = reinterpret_cast<State*>(scratch) + place.slot;
  if (static_cast<int>(threadIdx.x % kWarp) < block_rows) partial[threadIdx.x / kWarp * block_rows] = state;
  __syncthreads();
  state = partial[0];
#pragma unroll 1
  for (int warp = 1; warp < warps; ++warp) merge(state, partial[warp * block_rows]);
  return state;
}

// Shared memory of a row kernel: the caches first (16-byte aligned), then the states of two reductions, the first of
// three values.
struct RowShared {
  unsigned char* memory;
  const RowPlan& plan;

  template <class Acc>
  __device__ unsigned char* states(int arrays, int reduction) const {
    const int64_t count = int64_t{1} << (2 * plan.rows_log2 + plan.lanes_log2 - 5);
    const int64_t caches = (int64_t{arrays} * plan.cached << plan.rows_log2) * sizeof(Acc);
    return memory + caches + (reduction ? count * 3 * sizeof(Acc) : 0);
  }
};
}  // namespace dvae
