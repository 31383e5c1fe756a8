// What CUDA elementwise kernels share: blocks of elements, typed access to contiguous tensors, noise, and the launch.
#pragma once

#include "cuda/arguments.cuh"
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
  int word;        // the first one's place in its counter
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
    if (first < count) run(ElementChunk{first, count, plan.blocks.group + position / 4, whole, 0});
  }
}

// What N neighbouring words are moved as, by one access.
template <class Word, int N>
using Bits = std::conditional_t<N * sizeof(Word) == sizeof(Bits128), Bits128, Bits64>;

template <class Word, int N>
__device__ Bits<Word, N>* bits_at(Word* address) {
  static_assert(N * sizeof(Word) == sizeof(Bits<Word, N>), "8 or 16 bytes are moved by one access");
#ifndef __CUDACC__
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Bits<Word, N>)) shim::fail("a misaligned access of neighbours");
#endif
  return reinterpret_cast<Bits<Word, N>*>(address);
}

// The words of a chunk: a whole one, or one word, which is zero where there is none.
template <class Word, int N>
__device__ void load_words(const void* data, const ElementChunk& chunk, Word (&words)[N]) {
  Word* source = const_cast<Word*>(static_cast<const Word*>(data)) + chunk.first;
  if constexpr (N > 1) {
    const Bits<Word, N> bits = *bits_at<Word, N>(source);
    memcpy(words, &bits, sizeof(bits));
  } else {
    words[0] = chunk.whole ? *source : Word(0);
  }
}

template <class Word, int N>
__device__ void store_words(void* data, const ElementChunk& chunk, const Word (&words)[N]) {
  Word* target = static_cast<Word*>(data) + chunk.first;
  if constexpr (N > 1) {
    Bits<Word, N> bits;
    memcpy(&bits, words, sizeof(bits));
    store_global(bits_at<Word, N>(target), bits);
  } else {
    if (chunk.whole) *target = words[0];
  }
}

// Uniform noise (bits + 1/2) / 2^32; of ~bits it is one minus that.
template <class Acc>
__device__ Acc uniform_from_bits(uint32_t bits) {
  if constexpr (sizeof(Acc) == 8) return (bits + 0.5) * 0x1p-32;
  return fmaf(static_cast<float>(bits), 0x1p-32f, 0x1p-33f);
}

// A contiguous tensor of any storage type that is computed in Acc, so that one kernel serves them all: the branches are
// the same for all threads.
template <class Acc_>
struct StoredElements {
  using Acc = Acc_;

  void* data;
  Storage storage;

  explicit StoredElements(const Buffer& tensor) : data(tensor.data), storage(tensor.type) {}

  template <int N>
  __device__ void load(const ElementChunk& chunk, Acc (&x)[N]) const {
    if constexpr (sizeof(Acc) == 8) {
      load_words(data, chunk, x);
    } else {
      if (storage == Storage::float32) return load_words(data, chunk, x);
      uint16_t words[N];
      load_words(data, chunk, words);
      visit_half(storage, [&](auto half) {
#pragma unroll
        for (int i = 0; i < N; ++i) x[i] = load_as_compute(decltype(half){words[i]});
      });
    }
  }

  template <int N>
  __device__ void store(const ElementChunk& chunk, const Acc (&x)[N]) const {
    if constexpr (sizeof(Acc) == 8) {
      store_words(data, chunk, x);
    } else {
      if (storage == Storage::float32) return store_words(data, chunk, x);
      uint16_t words[N];
      visit_half(storage, [&](auto half) {
#pragma unroll
        for (int i = 0; i < N; ++i) words[i] = store_from_compute<decltype(half)>(x[i]).bits;
      });
      store_words(data, chunk, words);
    }
  }
};

// Whether a block can go by whole chunks of four: what else there is goes element by element, so that kernels whose
// arithmetic is long hold the code of five elements. Float64 always does.
template <class Acc>
__device__ bool by_fours(const ElementPlan& plan) {
  return sizeof(Acc) == 4 && plan.vector && (int64_t{blockIdx.x} + 1) * kElementBlock <= plan.blocks.count;
}

// Calls run(chunk, values) for the thread's chunks, in a loop that keeps the code small, with the values
// [N][kChunk] that load(chunk, values) read a turn before.
template <int kChunk, int N, class Acc, class Load, class Run>
__device__ void for_loaded_chunks(const ElementPlan& plan, const Load& load, const Run& run) {
  constexpr int kStep = kElementThreads * kChunk, kTurns = kElementBlock / kStep;
  const auto at = [&](int turn) {
    const int64_t position = int64_t{blockIdx.x} * kElementBlock + turn * kStep + threadIdx.x * kChunk;
    const int64_t first = position - plan.blocks.shift;
    const bool whole = kChunk > 1 || (first >= 0 && first < plan.blocks.count);
    const int word = kChunk > 1 ? 0 : static_cast<int>(position % 4);
    return ElementChunk{first, plan.blocks.count, plan.blocks.group + position / 4, whole, word};
  };
  struct Values {
    Acc of[N][kChunk];
  };
  Values next;
  load(at(0), next.of);
#pragma unroll 1
  for (int turn = 0; turn < kTurns; ++turn) {
    const ElementChunk chunk = at(turn);
    Values values = next;
    if (turn + 1 < kTurns) load(at(turn + 1), next.of);
    run(chunk, values.of);
  }
}

// The noise of an elementwise operation.
struct LogisticNoise {
  uint64_t seed;
  uint32_t offset;

  __device__ explicit LogisticNoise(const KeyWords& key)
      : seed(static_cast<uint64_t>(key.data[0])), offset(static_cast<uint32_t>(key.data[key.stride])) {}

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

// Calls call(Elements<Narrow> type, Elements<Wide> type), see visit.
template <class Call>
void with_elements(Storage narrow, Storage wide, const Call& call) {
  const auto with = [&](auto logits, auto sample) {
    call(TensorTypes<Elements<decltype(logits)>, Elements<decltype(sample)>>{});
  };
  narrow == Storage::float64 ? with(double(), double()) : visit<float>(narrow, wide, with);
}

}  // namespace dvae
