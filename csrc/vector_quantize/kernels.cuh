// The CUDA kernels of quantized rows and their gradients, and the choice among them; nothing here needs torch, so that
// the host shim can run it all. Rows that are read more than once are so from the caches next to the multiprocessor.
#pragma once

#include "common/scalar_math.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "vector_quantize/arguments.h"

namespace dvae {

#include "vector_quantize/formulas.h"

constexpr int kQuantizeStates = 6;  // values of the reductions, a (warp, row)

template <class Acc, int N>
struct RowSums {
  Acc value[N] = {};

  __device__ void merge(const RowSums& other) {
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] += other.value[i];
  }
};

// Sums over the row: add(chunk, sums) for each of its chunks. The first and the second reduction of a kernel have their
// own memory.
template <int N, class Acc, class Add>
__device__ RowSums<Acc, N> sum_row(
    const RowPlan& plan, const RowPlace& place, unsigned char* memory, int reduction, uint32_t chunks, const Add& add) {
  RowSums<Acc, N> sums;
#pragma unroll 1
  for (uint32_t chunk = place.lane; chunk < chunks; chunk += place.lanes) add(chunk, sums.value);
  return reduce_row(
      plan, place, sums, RowShared{memory, plan}.template states<Acc>(0, reduction),
      [](auto& a, const auto& b) { a.merge(b); });
}

// The row of this thread in a tensor of which it is row `index`.
template <class Tensor>
__device__ typename Tensor::Row row_at(const Tensor& tensor, RowPlace place, int64_t index) {
  place.outer_index = index;
  return tensor.row(place);
}

template <class X, class Code>
__global__ void __launch_bounds__(kMaxThreads) vector_quantize_fwd_kernel(
    RowPlan plan, X x, Code codebook, const int64_t* indices, int64_t num_codes, X quantized, Code codes,
    typename X::Acc* errors) {
  using Acc = typename X::Acc;
  constexpr int kChunk = X::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const int64_t index = place.chunks ? indices[place.row] : kMasked;
  const bool inside = index >= 0 && index < num_codes;
  const auto from = x.row(place);
  const auto code = row_at(codebook, place, inside ? index : 0);
  const auto sums = sum_row<2, Acc>(
      plan, place, memory, 0, inside ? place.chunks : 0, [&](uint32_t chunk, Acc (&sum)[2]) {
        Acc values[kChunk], c[kChunk];
        from.load(chunk, values, 0);
        code.load(chunk, c, 0);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          const Acc difference = values[i] - c[i];
          sum[0] = fma(difference, difference, sum[0]);
          sum[1] += values[i] - values[i];
        }
      });
  const bool chosen = inside && sums.value[1] == 0;  // NaN where the row is not finite
  const Acc otherwise = index == kMasked ? Acc(0) : kNaN<Acc>;
  const auto to = quantized.row(place);
  const auto kept = codes.row(place);
  const bool keeps = codes.data != nullptr;
#pragma unroll 1
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc c[kChunk];
    if (chosen) {
      code.load(chunk, c, 0);
    } else {
#pragma unroll
      for (Acc& value : c) value = otherwise;
    }
    to.store(chunk, c);
    if (keeps) kept.store(chunk, c);
  }
  if (place.lane == 0 && place.chunks) errors[place.row] = chosen ? sums.value[0] : otherwise;
}

// The gradients to the losses, and their weights.
template <class Acc>
struct LossGradient {
  const Acc* rows;  // of the losses, or null
  Acc commitment_weight, codebook_weight;
};

template <class X, class Code, class Wide>
__global__ void __launch_bounds__(kMaxThreads) vector_quantize_bwd_kernel(
    RowPlan plan, X grad, X x, Code codes, const int64_t* indices, LossGradient<typename X::Acc> loss, bool rotates,
    X dx, Wide dcodes) {
  using Acc = typename X::Acc;
  constexpr int kChunk = X::kChunk;
  DVAE_SHARED_MEMORY(memory);
  const RowPlace place(plan);
  const bool real = place.chunks && indices[place.row] != kMasked, has_grad = grad.data != nullptr;
  const auto from = x.row(place), gradient = grad.row(place);
  const auto code = codes.row(place);
  Rotation<Acc> rotation(0, 0);
  if (rotates && has_grad) {
    const auto squares = sum_row<2, Acc>(
        plan, place, memory, 0, real ? place.chunks : 0, [&](uint32_t chunk, Acc (&sum)[2]) {
          Acc values[kChunk], c[kChunk];
          from.load(chunk, values, 0);
          code.load(chunk, c, 0);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) {
            sum[0] = fma(values[i], values[i], sum[0]);
            sum[1] = fma(c[i], c[i], sum[1]);
          }
        });
    rotation = Rotation<Acc>(squares.value[0], squares.value[1]);
    const auto products = sum_row<3, Acc>(
        plan, place, memory, 1, real ? place.chunks : 0, [&](uint32_t chunk, Acc (&sum)[3]) {
          Acc values[kChunk], c[kChunk], g[kChunk];
          from.load(chunk, values, 0);
          code.load(chunk, c, 0);
          gradient.load(chunk, g, 0);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) {
            const Acc s = rotation.half_way(values[i], c[i]);
            sum[0] = fma(s, s, sum[0]);
            sum[1] = fma(s, g[i], sum[1]);
            sum[2] = fma(c[i], g[i], sum[2]);
          }
        });
    rotation.prepare(products.value[0], products.value[1], products.value[2]);
  }
  const Acc slope = loss.rows && real ? 2 * loss.rows[place.row] : 0;
  const Acc to_row = loss.commitment_weight * slope, to_code = loss.codebook_weight * slope;
  const bool commits = loss.rows && loss.commitment_weight != 0, wants_codes = dcodes.data != nullptr;
  const auto row_gradient = dx.row(place);
  const auto code_gradient = dcodes.row(place);
#pragma unroll 1
  for (uint32_t chunk = place.lane; chunk < place.chunks; chunk += place.lanes) {
    Acc values[kChunk] = {}, c[kChunk] = {}, g[kChunk] = {};
    if (real) {
      from.load(chunk, values, 0);
      code.load(chunk, c, 0);
      if (has_grad) gradient.load(chunk, g, 0);
    }
    if (rotation.exists()) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        g[i] = rotation.gradient(g[i], rotation.half_way(values[i], c[i]), values[i]);
      }
    }
    if (commits) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) g[i] = fma(to_row, values[i] - c[i], g[i]);
    }
    row_gradient.store(chunk, g);
    if (wants_codes) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) c[i] = c[i] == c[i] ? to_code * (c[i] - values[i]) : 0;
      code_gradient.store(chunk, c);
    }
  }
}

// Calls call(tensor types of x, of codes, and of the compute type): 16-byte vectors where all tensors can be read so
// and the types are equal, or codes are float beside half x.
template <int N, class Call>
void with_quantize_types(
    int64_t rows, int64_t columns, const std::array<RowStrides, N>& strides, const std::array<Buffer, N>& tensors, Storage x,
    Storage codes, const Call& call) {
  int chunk = vector_chunk<N>({rows, columns, 1, strides}, tensors);
  if (x != codes && codes != Storage::float32) chunk = 0;
  const RowPlan plan = plan_rows<double>(rows, 1, columns, chunk ? chunk : 4, false, 0, 0, kQuantizeStates);
  with_tensor_types(chunk, x, codes, [&](auto types) {
    using X = typename decltype(types)::Narrow;
    call(plan, types, TypeOf<std::conditional_t<
                          std::is_same_v<X, StridedTensor<typename X::Acc>>, X, VectorTensor<float, X::kChunk>>>{});
  });
}

// Neither rows nor columns are zero.
inline void vector_quantize_fwd(Stream stream, const QuantizeArgs& args) {
  const int64_t columns = args.columns;
  const RowStrides x{args.x_stride, 1, 0}, codebook{args.codebook_stride, 1, 0}, contiguous{columns, 1, 0};
  const std::array<Buffer, 4> tensors{args.x, args.codebook, args.quantized, args.codes};
  with_quantize_types<4>(
      args.rows, columns, {x, codebook, contiguous, contiguous}, tensors, args.x.type, args.codebook.type,
      [&](const RowPlan& plan, auto types, auto) {
        using X = typename decltype(types)::Narrow;
        using Code = typename decltype(types)::Wide;
        launch(plan, stream, vector_quantize_fwd_kernel<X, Code>, X(args.x, x), Code(args.codebook, codebook), args.indices,
               args.num_codes, X(args.quantized, contiguous), Code(args.codes, contiguous),
               static_cast<typename X::Acc*>(args.errors.data));
      });
}

inline void vector_quantize_bwd(Stream stream, const QuantizeBackwardArgs& args) {
  const int64_t columns = args.columns;
  const RowStrides grad{args.grad_stride, 1, 0}, x{args.x_stride, 1, 0}, codes{args.codes_stride, 1, 0};
  const RowStrides contiguous{columns, 1, 0};
  const std::array<Buffer, 5> tensors{args.grad, args.x, args.codes, args.dx, args.dcodes};
  with_quantize_types<5>(
      args.rows, columns, {grad, x, codes, contiguous, contiguous}, tensors, args.x.type, args.codes.type,
      [&](const RowPlan& plan, auto types, auto wide) {
        using X = typename decltype(types)::Narrow;
        using Code = typename decltype(types)::Wide;
        using Wide = typename decltype(wide)::type;
        using Acc = typename X::Acc;
        const LossGradient<Acc> loss{
            static_cast<const Acc*>(args.grad_losses.data), static_cast<Acc>(args.commitment_weight),
            static_cast<Acc>(args.codebook_weight)};
        launch(plan, stream, vector_quantize_bwd_kernel<X, Code, Wide>, X(args.grad, grad), X(args.x, x),
               Code(args.codes, codes), args.indices, loss, args.rotation, X(args.dx, contiguous),
               Wide(args.dcodes, contiguous));
      });
}

}  // namespace dvae
