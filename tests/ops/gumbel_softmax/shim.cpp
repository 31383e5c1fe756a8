// The CUDA kernels of Gumbel-softmax as a CPU library for ctypes.
#include "gumbel_softmax/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_fwd(const ShimCall* c, bool hard) {
  return c->with_layout<2>(
      [&](const auto& layout, const auto& t) { gumbel_softmax_fwd(c->row_call(), layout, t, hard); });
}

int shim_argmax(const ShimCall* c) {
  return c->with_layout<2>([&](const auto& layout, const auto& t) {
    const Buffer none{nullptr, t[0].type};
    gumbel_softmax_fwd(c->row_call(), layout, {t[0], none}, true, static_cast<int64_t*>(c->row_parts));
  });
}

int shim_onehot(const ShimCall* c) {
  return c->with_layout<2>([&](const auto& layout, const auto& t) {
    gumbel_softmax_fwd(c->row_call(), layout, t, true, static_cast<int64_t*>(c->row_parts));
  });
}

int shim_bwd(const ShimCall* c) {
  return c->with_layout<3>([&](const auto& layout, const auto& t) { gumbel_softmax_bwd(c->row_call(), layout, t); });
}

int shim_recompute_bwd(const ShimCall* c) {
  return c->with_layout<3>([&](const auto& layout, const auto& t) {
    gumbel_softmax_recompute_bwd(c->row_call(), layout, t, c->row_parts);
  });
}

// Which path a forward call takes: 0 strided, 1 interleaved, else the vector chunk.
int shim_path(const ShimCall* c) {
  int path = -1;
  c->with_layout<2>([&](const RowLayout<2>& any, const auto& t) {
    const RowLayout<2> layout = simplified(any);
    const int chunk = vector_chunk(layout, t);
    path = chunk ? chunk : interleaved(layout);
  });
  return path;
}
}
