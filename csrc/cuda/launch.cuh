// The launch of a row kernel, and the tensor types that it is instantiated for.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/access.cuh"

namespace dvae {

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

// The tensor of T that is read and written in chunks of 16 bytes, or of 32 beside half precision.
template <class T, class Narrow = T>
using VectorTensorOf = VectorTensor<T, sizeof(Narrow) == 2 ? 8 : 4>;

// Calls call(TensorTypes) for storage types that are equal, or float for half logits; chunk as from vector_chunk.
template <class Call>
void with_tensor_types(int chunk, Storage narrow, Storage wide, const Call& call) {
  if (chunk == 0 && narrow == Storage::float64) {
    call(TensorTypes<StridedTensor<double>, StridedTensor<double>>{});
  } else if (chunk == 0) {
    call(TensorTypes<StridedTensor<float>, StridedTensor<float>>{});
  } else {
    visit<float>(narrow, wide, [&](auto logits, auto sample) {
      using Narrow = decltype(logits);
      call(TensorTypes<VectorTensorOf<Narrow>, VectorTensorOf<decltype(sample), Narrow>>{});
    });
  }
}

// Calls call(tensor type) where all tensors of a call have one storage type.
template <class Call>
void with_tensor_type(int chunk, Storage storage, const Call& call) {
  with_tensor_types(chunk, storage, storage, [&](auto types) { call(TypeOf<typename decltype(types)::Narrow>{}); });
}

// The N tensors of a call as its kernel takes them, and the plan of its launch.
template <class Narrow_, class Wide_, int N>
struct RowKernel {
  using Narrow = Narrow_;
  using Wide = Wide_;
  using Acc = typename Narrow::Acc;

  RowLayout<N> layout;
  std::array<Buffer, N> tensors;
  int chunk;

  Narrow narrow(int t) const { return Narrow(tensors[t], layout.strides[t]); }
  Wide wide(int t) const { return Wide(tensors[t], layout.strides[t]); }

  // arrays and state_values as for plan_rows
  RowPlan plan(int arrays, int state_values = 4) const {
    const bool interleave = chunk == 0 && interleaved(layout);
    return plan_rows<Acc>(
        layout.rows(), layout.inner, layout.columns, chunk ? chunk : 4, interleave, arrays, shared_limit(),
        state_values);
  }
};

// Calls run(RowKernel) with the types of a call: Narrow as tensor number `narrow` is stored, Wide as number `wide`.
template <int N, class Run>
void with_row_kernel(const Rows<N>& rows, int narrow, int wide, const Run& run) {
  const RowLayout<N> layout = simplified(rows.layout);
  const int chunk = vector_chunk(layout, rows.tensors);
  with_tensor_types(chunk, rows.tensors[narrow].type, rows.tensors[wide].type, [&](auto types) {
    using Types = decltype(types);
    run(RowKernel<typename Types::Narrow, typename Types::Wide, N>{layout, rows.tensors, chunk});
  });
}

}  // namespace dvae
