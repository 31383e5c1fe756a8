// Typed access to the rows of a tensor, and to their columns in shared memory.
#pragma once

#include <type_traits>

#include "common/storage.h"
#include "cuda/plan.cuh"

namespace dvae {

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
    visit<Acc>(storage, [&](auto element) { use(static_cast<decltype(element)*>(data)); });
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
  int64_t outer, column, inner;
  Storage storage;

  StridedTensor(const Buffer& tensor, const RowStrides& strides)
      : data(tensor.data),
        outer(strides.outer),
        column(strides.column),
        inner(strides.inner),
        storage(tensor.type) {}

  __device__ Row row(const RowPlace& place) const {
    const int64_t offset = place.outer_index * outer + place.inner_index * inner;
    return {static_cast<char*>(data) + offset * size_of<Acc>(storage), column, place.columns, storage};
  }
};

// Reads a row of N tensors: load(chunk, x) for the chunks of the thread, a batch of which is in flight together, then
// use(chunk, x) for each.
template <class Input, int N, class Load, class Use>
__device__ void read_row(const RowPlace& place, const Load& load, const Use& use) {
  constexpr int kBatch = Input::kBatch;
  for (uint32_t first = place.lane; first < place.chunks; first += kBatch * place.lanes) {
    typename Input::Acc x[kBatch][N][Input::kChunk];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk < place.chunks) load(chunk, x[b]);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const uint32_t chunk = first + b * place.lanes;
      if (chunk >= place.chunks) break;
      use(chunk, x[b]);
    }
  }
}

// The same, and keeps what use() leaves of the leading columns in the caches, for write_row.
template <class Input, int N, class Load, class Use>
__device__ void read_row(
    const RowPlan& plan, const RowPlace& place, const typename Input::Cache (&cache)[N], const Load& load,
    const Use& use) {
  read_row<Input, N>(place, load, [&](uint32_t chunk, typename Input::Acc (&x)[N][Input::kChunk]) {
    use(chunk, x);
    if (chunk >= plan.cached / Input::kChunk) return;
#pragma unroll
    for (int n = 0; n < N; ++n) cache[n].put(chunk, x[n]);
  });
}

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
}  // namespace dvae
