// The CUDA kernels of the smoothing transformations as a CPU library for ctypes. A call's tau is beta.
#include "smoothing/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

namespace {

// The buffer of further values in the compute type.
Buffer compute(const ElementShimCall* c, const void* data) {
  return {const_cast<void*>(data), c->tensor(0).type == Storage::float64 ? Storage::float64 : Storage::float32};
}

SmoothingBeta beta(const ElementShimCall* c, bool each) {
  return each ? SmoothingBeta{{}, compute(c, c->tau)} : SmoothingBeta{c->scalar(), {}};
}

}  // namespace

extern "C" {

int shim_fwd(const ElementShimCall* c, const char* kind, const void* noise, bool beta_each) {
  smoothing_fwd(
      {}, {kind, c->tensor(0), c->tensor(1), c->blocks(), c->key_words(), compute(c, noise), beta(c, beta_each)});
  return 1;
}

int shim_bwd(
    const ElementShimCall* c, const char* kind, const void* noise, bool beta_each, void* dbeta, void* dnoise) {
  smoothing_bwd(
      {}, {kind, c->tensor(0), c->tensor(1), c->tensor(2), c->blocks(), c->key_words(), compute(c, noise),
           beta(c, beta_each), compute(c, dbeta), compute(c, dnoise)});
  return 1;
}

int shim_log_prob_fwd(const ElementShimCall* c, const char* kind, bool beta_each) {
  smoothing_log_prob_fwd(
      {}, {kind, c->tensor(0), c->tensor(1), c->tensor(2), c->blocks(), beta(c, beta_each)});
  return 1;
}

int shim_log_prob_bwd(const ElementShimCall* c, const char* kind, bool beta_each, void* dbeta) {
  smoothing_log_prob_bwd(
      {}, {kind, c->tensor(0), c->tensor(1), c->tensor(2), c->tensor(3), c->tensor(4), c->blocks(),
           beta(c, beta_each), compute(c, dbeta)});
  return 1;
}

// Whether a forward call uses 16-byte accesses.
int shim_vector(const ElementShimCall* c, const void* noise) {
  return plan_elements(c->blocks(), {c->tensor(0), c->tensor(1), compute(c, noise)}).vector;
}
}
