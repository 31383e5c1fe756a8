// What CUDA elementwise kernels share: blocks of elements, typed access to contiguous tensors, noise, and the launch.
#pragma once

#include "common/cuda_call.cuh"
#include "common/elements.h"

namespace dvae {

constexpr int kElementThreads = 256;
// Blocks that fit on a multiprocessor: 64 registers a thread in float32, 128 in float64.
template <class Acc>
constexpr int kElementMinBlocks = sizeof(Acc) == 4 ? 4 : 2;

struct ElementPlan {
  ElementBlocks blocks;
  bool vector;  // every tensor can be read and written in 16-byte pieces
};

template <int N>
ElementPlan plan_elements(const ElementBlocks& blocks, const Buffer (&tensors)[N]) {
  bool vector = blocks.shift == 0;
  for (const Buffer& tensor : tensors) vector = vector && reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
  return {blocks, vector};
}

// Neighbouring elements of a thread.
struct ElementChunk {
  int64_t first;   // negative at the start of a shifted tensor
  int64_t count;   // elements of the tensor
  uint64_t group;  // their counter in the noise stream
  bool whole;      // all of them exist, at a 16-byte address
};

// A contiguous tensor, read and written in chunks.
template <class T>
struct Elements {
  using Acc = typename Compute<T>::type;
  static constexpr int kChunk = sizeof(T) == 2 ? 8 : 4;  // 16 bytes of the narrowest tensor, and whole Philox counters

  T* data;

  explicit Elements(const Buffer& tensor) : data(static_cast<T*>(tensor.data)) {}

  // Elements that do not exist are `fill`.
  template <int N>
  __device__ void load(const ElementChunk& chunk, Acc (&x)[N], Acc fill) const {
    if (chunk.whole) return VectorRow<T, N>{data + chunk.first}.load(0, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64_t element = chunk.first + i;
      x[i] = element >= 0 && element < chunk.count ? load_as_compute(data[element]) : fill;
    }
  }

  template <int N>
  __device__ void store(const ElementChunk& chunk, const Acc (&x)[N]) const {
    if (chunk.whole) return VectorRow<T, N>{data + chunk.first}.store(0, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64_t element = chunk.first + i;
      if (element >= 0 && element < chunk.count) data[element] = store_from_compute<T>(x[i]);
    }
  }
};

// Calls run(chunk) for the thread's chunks.
template <int kChunk, class Run>
__device__ void for_chunks(const ElementPlan& plan, const Run& run) {
#pragma unroll
  for (int turn = 0; turn < kElementBlock / (kElementThreads * kChunk); ++turn) {
    const int64_t position = int64_t{blockIdx.x} * kElementBlock + (turn * kElementThreads + threadIdx.x) * kChunk;
    const int64_t first = position - plan.blocks.shift, count = plan.blocks.count;
    const bool whole = plan.vector && first + kChunk <= count;
    if (first < count) run(ElementChunk{first, count, plan.blocks.group + position / 4, whole});
  }
}

// The noise of an elementwise operation.
struct LogisticNoise {
  uint64_t seed;
  uint32_t offset;

  __device__ explicit LogisticNoise(const NoiseArgument& noise)
      : seed(static_cast<uint64_t>(noise.key[0])), offset(static_cast<uint32_t>(noise.key[noise.key_stride])) {}

  template <class Acc, int kChunk>
  __device__ void add(const ElementChunk& chunk, Acc (&x)[kChunk]) const {
#pragma unroll
    for (int q = 0; q < kChunk / 4; ++q) {
      const Philox4x32 words = element_words(seed, offset, chunk.group + q);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[q * 4 + i] += logistic_from_bits<Acc>(words.word[i]);
    }
  }
};

// Writes the sum of all threads' values to sums[block], in an order that is always the same.
template <class Acc>
__device__ void write_block_sum(Acc value, Acc* sums) {
  DVAE_SHARED_MEMORY(memory);
  Acc* warps = reinterpret_cast<Acc*>(memory);
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int warp = 1; warp < kElementThreads / kWarp; ++warp) value += warps[warp];
  sums[blockIdx.x] = value;
}

template <class... Parameters, class... Arguments>
void launch_elements(
    const ElementPlan& plan, Stream stream, void (*kernel)(ElementPlan, Parameters...), Arguments... arguments) {
  const auto blocks = static_cast<unsigned>(plan.blocks.blocks());  // 2^31 of them are 2^42 elements
  constexpr size_t shared_bytes = kElementThreads / kWarp * sizeof(double);  // for write_block_sum
#ifdef __CUDACC__
  kernel<<<blocks, kElementThreads, shared_bytes, stream>>>(plan, arguments...);
  check_cuda(cudaGetLastError());
#else
  (void)stream;
  shim::Block::current().launch({blocks, 1}, kElementThreads, shared_bytes, [&] { kernel(plan, arguments...); });
#endif
}

// Calls call(Elements<Narrow> type, Elements<Wide> type), see with_storages.
template <class Call>
void with_elements(Storage narrow, Storage wide, const Call& call) {
  const auto with = [&](auto logits, auto sample) {
    call(TensorTypes<Elements<decltype(logits)>, Elements<decltype(sample)>>{});
  };
  narrow == Storage::float64 ? with(double(), double()) : with_storages<float>(narrow, wide, with);
}

}  // namespace dvae
