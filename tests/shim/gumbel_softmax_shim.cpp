// The CUDA kernels of Gumbel-softmax as a CPU library for ctypes. Pointers and strides are the caller's.
#include "gumbel_softmax/kernels.cuh"

#include <array>

using namespace dvae;

namespace {

struct Geometry {
  int ndim, dim;
  const int64_t* sizes;
};

// False where the rows do not collapse; the host code of the extension then copies.
template <int N, class Run>
bool with_layout(const Geometry& geometry, const int64_t* const* strides, const Run& run) {
  std::array<const int64_t*, N> all;
  for (int t = 0; t < N; ++t) all[t] = strides[t];
  RowLayout<N> layout;
  if (!collapse_rows<N>(geometry.ndim, geometry.sizes, geometry.dim, all, &layout)) return false;
  run(layout);
  return true;
}

}  // namespace

extern "C" {

struct ShimCall {
  int ndim, dim;
  const int64_t* sizes;
  const int64_t* strides[3];
  void* data[3];
  int storage[3];
  const int64_t* key;
  uint32_t row_offset;
  const void* tau;
  double tau_value;
  void* dtau_rows;
  int64_t shared_limit;
};

bool shim_run(const ShimCall* c, int op, bool hard) {
  shim::shared_limit = static_cast<size_t>(c->shared_limit);
  RowCall call;
  call.noise = {c->key, 1, c->row_offset};
  call.tau = c->tau;
  call.tau_value = c->tau_value;
  const auto tensor = [&](int t) { return Buffer{c->data[t], static_cast<Storage>(c->storage[t])}; };
  const Geometry geometry{c->ndim, c->dim, c->sizes};
  if (op == 0) {
    const Buffer tensors[2] = {tensor(0), tensor(1)};
    return with_layout<2>(
        geometry, c->strides, [&](const RowLayout<2>& l) { gumbel_softmax_fwd(call, l, tensors, hard); });
  }
  const Buffer tensors[3] = {tensor(0), tensor(1), tensor(2)};
  return with_layout<3>(geometry, c->strides, [&](const RowLayout<3>& l) {
    op == 1 ? gumbel_softmax_bwd(call, l, tensors) : gumbel_softmax_recompute_bwd(call, l, tensors, c->dtau_rows);
  });
}

// Which path a forward call takes: 0 strided, 1 interleaved, else the vector chunk.
int shim_path(const ShimCall* c) {
  int path = -1;
  with_layout<2>({c->ndim, c->dim, c->sizes}, c->strides, [&](const RowLayout<2>& any) {
    const RowLayout<2> layout = simplified(any);
    const Buffer tensors[2] = {
        {c->data[0], static_cast<Storage>(c->storage[0])}, {c->data[1], static_cast<Storage>(c->storage[1])}};
    const int chunk = vector_chunk(layout, tensors);
    path = chunk ? chunk : interleaved(layout);
  });
  return path;
}
}
