// The CUDA kernels of Gumbel-softmax as a CPU library for ctypes.
#include "gumbel_softmax/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_fwd(const ShimCall* c, bool hard) {
  return c->with_rows<2>([&](const Rows<2>& rows) {
    gumbel_softmax_fwd({}, {rows, c->noise(), c->scalar(), hard, nullptr});
  });
}

int shim_argmax(const ShimCall* c) {
  return c->with_rows<2>([&](Rows<2> rows) {
    rows.tensors[1].data = nullptr;
    gumbel_softmax_fwd({}, {rows, c->noise(), c->scalar(), true, static_cast<int64_t*>(c->row_parts)});
  });
}

int shim_onehot(const ShimCall* c) {
  return c->with_rows<2>([&](const Rows<2>& rows) {
    gumbel_softmax_fwd({}, {rows, c->noise(), c->scalar(), true, static_cast<int64_t*>(c->row_parts)});
  });
}

int shim_bwd(const ShimCall* c) {
  return c->with_rows<3>([&](const Rows<3>& rows) { gumbel_softmax_bwd({}, {rows, c->scalar()}); });
}

int shim_recompute_bwd(const ShimCall* c) {
  return c->with_rows<3>([&](const Rows<3>& rows) {
    gumbel_softmax_recompute_bwd({}, {rows, c->noise(), c->scalar(), c->row_parts});
  });
}

// Which path a forward call takes: 0 strided, 1 interleaved, else the vector chunk.
int shim_path(const ShimCall* c) {
  int path = -1;
  c->with_rows<2>([&](const Rows<2>& rows) {
    const RowLayout<2> layout = simplified(rows.layout);
    const int chunk = vector_chunk(layout, rows.tensors);
    path = chunk ? chunk : interleaved(layout);
  });
  return path;
}
}
