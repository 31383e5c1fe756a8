// The CUDA kernels of the binary concrete distribution as a CPU library for ctypes.
#include "binary_concrete/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

extern "C" {

int shim_fwd(const ElementShimCall* c, bool hard) {
  binary_concrete_fwd({}, {c->tensor(0), c->tensor(1), c->blocks(), c->key_words(), c->scalar(), hard});
  return 1;
}

int shim_bwd(const ElementShimCall* c) {
  binary_concrete_bwd(
      {}, {c->tensor(0), c->tensor(1), c->tensor(2), c->blocks(), c->key_words(), c->scalar(), {c->block_sums}});
  return 1;
}

int shim_log_prob_fwd(const ElementShimCall* c) {
  binary_concrete_log_prob_fwd({}, {c->tensor(0), c->tensor(1), c->tensor(2), c->blocks(), c->scalar()});
  return 1;
}

int shim_log_prob_bwd(const ElementShimCall* c) {
  binary_concrete_log_prob_bwd(
      {}, {c->tensor(0), c->tensor(1), c->tensor(2), c->tensor(3), c->tensor(4), c->blocks(), c->scalar(),
           {c->block_sums}});
  return 1;
}

// Whether a forward call uses 16-byte accesses.
int shim_vector(const ElementShimCall* c) {
  return plan_elements(c->blocks(), {c->tensor(0), c->tensor(1)}).vector;
}
}
