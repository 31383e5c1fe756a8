// What CUDA row kernels share: how rows are given to threads, typed access to them, reductions, and the launch.
//
// The `lanes` threads of a row walk over its chunks of 4 or 8 columns, and keep the leading columns in shared memory,
// so that a row that fits is read once. Rows whose columns lie next to each other use neighbouring threads for
// neighbouring chunks; other layouts are interleaved: neighbouring threads take neighbouring rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "common/buffers.h"
#include "common/numerics.h"
#include "common/rows.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <string>
#define DVAE_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "cuda/host_shim.h"
#define DVAE_SHARED_MEMORY(name) unsigned char* const name = dvae::shim::Block::current().shared()
#endif

namespace dvae {

constexpr int kWarp = 32, kMaxThreads = 512;
// Threads of a row at most; half for double, whose values take two registers.
template <class Acc>
constexpr int kRowThreads = sizeof(Acc) == 4 ? kMaxThreads : kMaxThreads / 2;
constexpr size_t kInterleavedShared = 64 << 10;  // for three blocks on a multiprocessor

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t power_of_two_above(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}
inline int log2_of_power(int64_t power) {
  int result = 0;
  while (power >>= 1) ++result;
  return result;
}

struct RowPlan {
  int64_t rows, columns;
  uint32_t inner;  // row r is (r / inner, r % inner) in the tensors' strides
  uint32_t chunks;
  uint32_t cached;  // leading columns kept in shared memory: whole chunks for each of the lanes
  int lanes_log2, rows_log2;  // of a block
  bool interleaved;
  // the launch
  unsigned threads, grid_x, grid_y;
  size_t shared_bytes;
};

// arrays: values of type T cached per column. shared_limit: bytes that a block may use. state_values: how many of T the
// states of two reductions take.
template <class T>
RowPlan plan_rows(
    int64_t rows, int64_t inner, int64_t columns, int chunk, bool interleaved, int arrays, size_t shared_limit,
    int state_values = 4) {
  if (columns >= UINT32_MAX) throw std::length_error("rows of 2^32 - 1 elements or more are not supported on CUDA");
  RowPlan plan{};
  plan.rows = rows;
  plan.inner = static_cast<uint32_t>(inner);
  plan.columns = columns;
  plan.chunks = static_cast<uint32_t>(divide_up(columns, chunk));
  plan.interleaved = interleaved;
  const int64_t column_bytes = arrays * sizeof(T), state_bytes = state_values * sizeof(T);
  int64_t lanes, block_rows;
  if (interleaved) {
    shared_limit = std::min(shared_limit, arrays > 2 ? 2 * kInterleavedShared : kInterleavedShared);
    const auto budget = static_cast<int64_t>(shared_limit);
    block_rows = std::min<int64_t>(kWarp, power_of_two_above(rows));
    const int64_t row_bytes = columns * column_bytes + 256 / kWarp * state_bytes;
    while (block_rows > 8 && block_rows * row_bytes > budget) block_rows /= 2;
    lanes = std::min(256 / block_rows, power_of_two_above(plan.chunks));
    lanes = std::max(lanes, kWarp / block_rows);
  } else if (columns <= 1024) {
    lanes = std::min<int64_t>(kWarp, power_of_two_above(plan.chunks));
    block_rows = 128 / lanes;
  } else {
    lanes = std::clamp<int64_t>(power_of_two_above(divide_up(columns, 32)), 128, kRowThreads<T>);
    block_rows = 1;
  }
  plan.lanes_log2 = log2_of_power(lanes);
  plan.rows_log2 = log2_of_power(block_rows);
  plan.threads = static_cast<unsigned>(lanes * block_rows);
  // where a row spans warps: see reduce_row
  const int64_t states = interleaved || lanes > kWarp ? plan.threads / kWarp * block_rows * state_bytes : 0;
  if (column_bytes) {
    const int64_t step = chunk * lanes;
    const int64_t fits = (static_cast<int64_t>(shared_limit) - states) / (block_rows * column_bytes) / step * step;
    plan.cached = static_cast<uint32_t>(std::min(divide_up(columns, step) * step, fits));
  }
  plan.shared_bytes = static_cast<size_t>(states + plan.cached * block_rows * column_bytes);
  const int64_t blocks = divide_up(rows, block_rows);
  plan.grid_x = static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 30));
  plan.grid_y = static_cast<unsigned>(divide_up(blocks, plan.grid_x));
  return plan;
}

// The row of this thread, and its place among the threads of that row.
struct RowPlace {
  uint32_t lane, lanes;
  uint32_t slot;  // of the rows of the block
  int64_t row;
  int64_t outer_index, inner_index;
  // none where the block reaches beyond the last row
  uint32_t chunks;
  int64_t columns;

  __device__ explicit RowPlace(const RowPlan& plan) {
    const uint32_t thread = threadIdx.x, block_rows = 1u << plan.rows_log2;
    lanes = 1u << plan.lanes_log2;
    slot = plan.interleaved ? thread & (block_rows - 1) : thread >> plan.lanes_log2;
    lane = plan.interleaved ? thread >> plan.rows_log2 : thread & (lanes - 1);
    row = (blockIdx.x + int64_t{blockIdx.y} * gridDim.x) * block_rows + slot;
    const bool exists = row < plan.rows;
    if (!exists) row = 0;
    outer_index = row;
    inner_index = 0;
    if (plan.inner > 1) {  // 32-bit: rows are numbered in 32 bits
      outer_index = static_cast<uint32_t>(row) / plan.inner;
      inner_index = static_cast<uint32_t>(row) % plan.inner;
    }
    chunks = exists ? plan.chunks : 0;
    columns = exists ? plan.columns : 0;
  }
};

#ifdef __CUDACC__
using Bits128 = uint4;  // which the compiler moves as one
using Bits64 = uint2;
#else
struct alignas(16) Bits128 {
  uint32_t word[4];
};
struct alignas(8) Bits64 {
  uint32_t word[2];
};
#endif

// As one instruction, where an assignment may be split.
__device__ inline void store_global(Bits128* target, const Bits128& bits) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(target)), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
               : "memory");
#else
  *target = bits;
#endif
}
__device__ inline void store_global(Bits64* target, const Bits64& bits) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v2.u32 [%0], {%1, %2};"
               :
               : "l"(__cvta_generic_to_global(target)), "r"(bits.x), "r"(bits.y)
               : "memory");
#else
  *target = bits;
#endif
}
__device__ inline void store_shared(Bits128* target, const Bits128& bits) {
#ifdef __CUDA_ARCH__
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(target))), "r"(bits.x), "r"(bits.y), "r"(bits.z),
                 "r"(bits.w)
               : "memory");
#else
  *target = bits;
#endif
}

// One row of a tensor of T whose rows are contiguous, 16-byte aligned, and a multiple of kChunk long.
template <class T, int kChunk>
struct VectorRow {
  using Acc = typename Compute<T>::type;
  static constexpr int kPer = sizeof(Bits128) / sizeof(T), kVectors = kChunk / kPer;
  T* data;

  __device__ Bits128* vectors(uint32_t chunk) const {
    auto* address = reinterpret_cast<Bits128*>(data + int64_t{chunk} * kChunk);
#ifndef __CUDACC__
    if (reinterpret_cast<uintptr_t>(address) % sizeof(Bits128)) shim::fail("a misaligned 16-byte access");
#endif
    return address;
  }

  __device__ Acc at(uint32_t column) const { return load_as_compute(data[column]); }

  __device__ void load(uint32_t chunk, Acc (&x)[kChunk], Acc = 0) const {
    const Bits128* source = vectors(chunk);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      T element[kPer];
      const Bits128 bits = source[v];
      memcpy(element, &bits, sizeof(bits));
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[v * kPer + i] = load_as_compute(element[i]);
    }
  }

  __device__ void store(uint32_t chunk, const Acc (&x)[kChunk]) const {
    Bits128* target = vectors(chunk);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      T element[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) element[i] = store_from_compute<T>(x[v * kPer + i]);
      Bits128 bits;
      memcpy(&bits, element, sizeof(bits));
      store_global(target + v, bits);
    }
  }
};

// Values of a chunk cached by the thread that made them: four of every thread side by side, so without bank conflicts.
template <class Acc, int kChunk>
struct ChunkCache {
  Acc* mine;
  uint32_t lanes_log2, step;  // between quads of one thread

  __device__ ChunkCache(unsigned char* shared, int index, const RowPlan& plan, const RowPlace&)
      : mine(reinterpret_cast<Acc*>(shared) + (int64_t{index} * plan.cached << plan.rows_log2) + threadIdx.x * 4),
        lanes_log2(plan.lanes_log2),
        step(4u << (plan.lanes_log2 + plan.rows_log2)) {}

  __device__ Bits128* quad(uint32_t chunk, int q) const {
    return reinterpret_cast<Bits128*>(mine + ((chunk >> lanes_log2) * (kChunk / 4) + q) * step);
  }
  __device__ void put(uint32_t chunk, const Acc (&x)[kChunk]) const {
#pragma unroll
    for (int q = 0; q < kChunk / 4; ++q) {
      Bits128 bits;
      memcpy(&bits, x + q * 4, sizeof(bits));
      store_shared(quad(chunk, q), bits);
    }
  }
  __device__ void get(uint32_t chunk, Acc (&x)[kChunk]) const {
#pragma unroll
    for (int q = 0; q < kChunk / 4; ++q) {
      const Bits128 bits = *quad(chunk, q);
      memcpy(x + q * 4, &bits, sizeof(bits));
    }
  }
};

// A float tensor whose rows VectorRow can take.
template <class T, int kChunk_>
struct VectorTensor {
  static constexpr int kChunk = kChunk_;
  static constexpr int kBatch = 8 / kChunk;  // chunks whose loads are in flight together
  using Acc = typename Compute<T>::type;
  using Row = VectorRow<T, kChunk>;
  using Cache = ChunkCache<Acc, kChunk>;
  static_assert(sizeof(Acc) == 4, "wide types take StridedTensor");

  void* data;
  int64_t outer, inner;

  VectorTensor(const Buffer& tensor, const RowStrides& strides)
      : data(tensor.data), outer(strides.outer), inner(strides.inner) {}

  __device__ Row row(const RowPlace& place) const {
    return {static_cast<T*>(data) + place.outer_index * outer + place.inner_index * inner};
  }
};

// One row of a tensor of any layout and type.
template <class Acc>
struct StridedRow {
  void* data;
  int64_t stride, columns;
  Storage storage;

  // Calls use(pointer to the row's first element, typed).
  template <class Use>
  __device__ void typed(const Use& use) const {
    if constexpr (sizeof(Acc) == 8) {
      use(static_cast<double*>(data));
    } else if (storage == Storage::float32) {
      use(static_cast<float*>(data));
    } else if (storage == Storage::bfloat16) {
      use(static_cast<BFloat16*>(data));
    } else {
      use(static_cast<Half*>(data));
    }
  }

  __device__ Acc at(uint32_t column) const {
    Acc x = 0;
    typed([&](const auto* row) { x = load_as_compute(row[int64_t{column} * stride]); });
    return x;
  }

  // Columns beyond the last are `fill`.
  __device__ void load(uint32_t chunk, Acc (&x)[4], Acc fill) const {
    const int64_t first = int64_t{chunk} * 4;
    typed([&](const auto* row) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = first + i < columns ? load_as_compute(row[(first + i) * stride]) : fill;
    });
  }

  __device__ void store_column(int64_t column, Acc x) const {
    typed([&](auto* row) { row[column * stride] = store_from_compute<std::decay_t<decltype(*row)>>(x); });
  }

  __device__ void store(uint32_t chunk, const Acc (&x)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t column = int64_t{chunk} * 4 + i;
      if (column < columns) store_column(column, x[i]);
    }
  }
};

// Columns cached for any thread of the row, so that they can be stored in another order than they were made in.
template <class Acc>
struct ColumnCache {
  Acc* data;
  int64_t stride;

  __device__ ColumnCache(unsigned char* shared, int index, const RowPlan& plan, const RowPlace& place) {
    data = reinterpret_cast<Acc*>(shared) + (int64_t{index} * plan.cached << plan.rows_log2);
    data += plan.interleaved ? place.slot : int64_t{place.slot} * plan.cached;
    stride = plan.interleaved ? int64_t{1} << plan.rows_log2 : 1;
  }

  __device__ void put(uint32_t chunk, const Acc (&x)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) data[(int64_t{chunk} * 4 + i) * stride] = x[i];
  }
  __device__ void get(uint32_t chunk, Acc (&x)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = data[(int64_t{chunk} * 4 + i) * stride];
  }
  __device__ Acc operator[](int64_t column) const { return data[column * stride]; }
};

// A tensor of any layout; Acc = float reads and writes every type but double.
template <class Acc_>
struct StridedTensor {
  static constexpr int kChunk = 4;
  static constexpr int kBatch = 1;
  using Acc = Acc_;
  using Row = StridedRow<Acc>;
  using Cache = ColumnCache<Acc>;

  void* data;
  int64_t outer, category, inner;
  Storage storage;

  StridedTensor(const Buffer& tensor, const RowStrides& strides)
      : data(tensor.data),
        outer(strides.outer),
        category(strides.category),
        inner(strides.inner),
        storage(tensor.type) {}

  __device__ Row row(const RowPlace& place) const {
    const int64_t offset = place.outer_index * outer + place.inner_index * inner;
    const int64_t size = sizeof(Acc) == 8 ? 8 : storage == Storage::float32 ? 4 : 2;
    return {static_cast<char*>(data) + offset * size, category, place.columns, storage};
  }
};

// finish(values), or finish(values, column) where it takes the column.
template <class Finish, class Acc, int N>
__device__ Acc finish_column(const Finish& finish, const Acc (&values)[N], uint32_t column) {
  if constexpr (std::is_invocable_v<Finish, const Acc(&)[N], uint32_t>) {
    return finish(values, column);
  } else {
    return finish(values);
  }
}

// Writes finish(values) of every column, `values` being the N cached ones or what reload(chunk, values) makes again.
template <int N, class T, int kChunk, class Acc, class Reload, class Finish>
__device__ void write_row(
    const RowPlan& plan, const RowPlace& place, const VectorRow<T, kChunk>& output,
    const ChunkCache<Acc, kChunk> (&cache)[N], const Reload& reload, const Finish& finish) {
  Acc x[N][kChunk], y[kChunk];
  const auto finish_chunk = [&](uint32_t chunk) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      Acc values[N];
#pragma unroll
      for (int n = 0; n < N; ++n) values[n] = x[n][i];
      y[i] = finish_column(finish, values, chunk * kChunk + i);
    }
    output.store(chunk, y);
  };
  uint32_t chunk = place.lane;
  const uint32_t cached_chunks = plan.cached / kChunk;
  for (; chunk < place.chunks && chunk < cached_chunks; chunk += place.lanes) {
#pragma unroll
    for (int n = 0; n < N; ++n) cache[n].get(chunk, x[n]);
    finish_chunk(chunk);
  }
  for (; chunk < place.chunks; chunk += place.lanes) {
    reload(chunk, x);
    finish_chunk(chunk);
  }
}

template <int N, class Acc, class Reload, class Finish>
__device__ void write_row(
    const RowPlan& plan, const RowPlace& place, const StridedRow<Acc>& output, const ColumnCache<Acc> (&cache)[N],
    const Reload& reload, const Finish& finish) {
  for (int64_t column = place.lane; column < place.columns && column < plan.cached; column += place.lanes) {
    Acc values[N];
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] = cache[n][column];
    output.store_column(column, finish_column(finish, values, static_cast<uint32_t>(column)));
  }
  for (uint32_t chunk = plan.cached / 4 + place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc x[N][4], y[4];
    reload(chunk, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Acc values[N];
#pragma unroll
      for (int n = 0; n < N; ++n) values[n] = x[n][i];
      y[i] = finish_column(finish, values, chunk * 4 + i);
    }
    output.store(chunk, y);
  }
}

// Writes value(column) for every column.
template <class T, int kChunk, class Value>
__device__ void fill_row(const RowPlace& place, const VectorRow<T, kChunk>& output, const Value& value) {
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    typename VectorRow<T, kChunk>::Acc y[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) y[i] = value(chunk * kChunk + i);
    output.store(chunk, y);
  }
}

template <class Acc, class Value>
__device__ void fill_row(const RowPlace& place, const StridedRow<Acc>& output, const Value& value) {
  for (int64_t column = place.lane; column < place.columns; column += place.lanes) {
    output.store_column(column, value(static_cast<uint32_t>(column)));
  }
}

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

#ifdef __CUDACC__
using Stream = cudaStream_t;

inline void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(status));
}

// Shared memory that a block may use on the current device.
inline size_t shared_limit() {
  int device, bytes;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

template <class... Parameters, class... Arguments>
void launch(const RowPlan& plan, Stream stream, void (*kernel)(RowPlan, Parameters...), Arguments... arguments) {
  if (plan.shared_bytes > 48 << 10) {
    // the device's limit, not this call's need: another thread may be about to launch the same kernel
    const auto bytes = static_cast<int>(shared_limit());
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  }
  kernel<<<dim3(plan.grid_x, plan.grid_y), plan.threads, plan.shared_bytes, stream>>>(plan, arguments...);
  check_cuda(cudaGetLastError());
}
#else
using Stream = void*;

inline size_t shared_limit() { return shim::shared_limit; }

template <class... Parameters, class... Arguments>
void launch(const RowPlan& plan, Stream, void (*kernel)(RowPlan, Parameters...), Arguments... arguments) {
  const shim::Dim3 grid{plan.grid_x, plan.grid_y};
  shim::Block::current().launch(grid, plan.threads, plan.shared_bytes, [&] { kernel(plan, arguments...); });
}
#endif

// Whether neighbouring rows of the output (the last tensor) lie closer than its columns.
template <int N>
bool interleaved(const RowLayout<N>& layout) {
  const RowStrides& strides = layout.strides[N - 1];
  return layout.rows() > 1 && strides.category > (layout.inner > 1 ? strides.inner : strides.outer);
}

// Columns per chunk where every tensor can be read and written in 16-byte vectors, else 0.
template <int N>
int vector_chunk(const RowLayout<N>& layout, const Buffer (&tensors)[N]) {
  int64_t chunk = 4;
  for (const Buffer& tensor : tensors) {
    if (tensor.type == Storage::float64) return 0;
    chunk = std::max<int64_t>(chunk, 16 / size_of(tensor.type));
  }
  if (layout.categories % chunk || layout.categories > INT32_MAX) return 0;
  for (int t = 0; t < N; ++t) {
    const RowStrides& strides = layout.strides[t];
    const int64_t size = size_of(tensors[t].type);
    const bool aligned = reinterpret_cast<uintptr_t>(tensors[t].data) % 16 == 0 &&
                         (layout.outer == 1 || strides.outer * size % 16 == 0) &&
                         (layout.inner == 1 || strides.inner * size % 16 == 0);
    if (strides.category != 1 || !aligned) return 0;
  }
  return static_cast<int>(chunk);
}

// The tensor types that a call's kernel takes: Narrow for logits, Wide for samples.
template <class Narrow_, class Wide_>
struct TensorTypes {
  using Narrow = Narrow_;
  using Wide = Wide_;
};

template <class T>
struct TypeOf {
  using type = T;
};

// Calls call(TensorTypes) for storage types that are equal, or float for half logits; chunk as from vector_chunk.
template <class Call>
void with_tensor_types(int chunk, Storage narrow, Storage wide, const Call& call) {
  using F = VectorTensor<float, 4>;
  using WideF = VectorTensor<float, 8>;
  using B = VectorTensor<BFloat16, 8>;
  using H = VectorTensor<Half, 8>;
  const bool same = narrow == wide;
  if (chunk == 0 && narrow == Storage::float64) {
    call(TensorTypes<StridedTensor<double>, StridedTensor<double>>{});
  } else if (chunk == 0) {
    call(TensorTypes<StridedTensor<float>, StridedTensor<float>>{});
  } else if (narrow == Storage::float32) {
    call(TensorTypes<F, F>{});
  } else if (narrow == Storage::bfloat16) {
    same ? call(TensorTypes<B, B>{}) : call(TensorTypes<B, WideF>{});
  } else {
    same ? call(TensorTypes<H, H>{}) : call(TensorTypes<H, WideF>{});
  }
}

// Calls call(tensor type) where all tensors of a call have one storage type.
template <class Call>
void with_tensor_type(int chunk, Storage storage, const Call& call) {
  if (chunk == 0) {
    storage == Storage::float64 ? call(TypeOf<StridedTensor<double>>{}) : call(TypeOf<StridedTensor<float>>{});
  } else if (storage == Storage::float32) {
    call(TypeOf<VectorTensor<float, 4>>{});
  } else if (storage == Storage::bfloat16) {
    call(TypeOf<VectorTensor<BFloat16, 8>>{});
  } else {
    call(TypeOf<VectorTensor<Half, 8>>{});
  }
}

}  // namespace dvae
