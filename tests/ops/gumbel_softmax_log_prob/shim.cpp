// The CUDA kernels of the concrete density as a CPU library for ctypes. row_parts: the gradients to tau.
#include "gumbel_softmax_log_prob/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_log_prob_fwd(const ShimCall* c, void* density, void* count) {
  return c->with_rows<2>([&](const Rows<2>& rows) {
    gumbel_softmax_log_prob_fwd({}, {rows, c->scalar(), density, count});
  });
}

int shim_log_prob_bwd(const ShimCall* c, const void* grads) {
  return c->with_rows<4>([&](const Rows<4>& rows) {
    gumbel_softmax_log_prob_bwd({}, {rows, c->scalar(), grads, c->row_parts});
  });
}
}
