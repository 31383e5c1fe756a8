// The CUDA kernels of the smoothing transformations as a CPU library for ctypes. The functions return 1, or 0 for an
// unknown kind. A call's tau is beta.
#include "smoothing/kernels.cuh"
#include "shim_call.h"

using namespace dvae;

namespace {

SmoothingCall smoothing_call(
    const ElementShimCall* c, const char* kind, const void* noise, bool beta_each, void* dbeta, void* dnoise) {
  SmoothingCall call;
  call.kind = kind;
  call.key = c->call().noise;
  call.noise = noise;
  call.beta = c->tau;
  call.beta_value = c->tau_value;
  call.beta_each = beta_each;
  call.dbeta = dbeta;
  call.dnoise = dnoise;
  return call;
}

}  // namespace

extern "C" {

int shim_fwd(const ElementShimCall* c, const char* kind, const void* noise, bool beta_each) {
  return smoothing_fwd(
      smoothing_call(c, kind, noise, beta_each, nullptr, nullptr), c->blocks(), {c->tensor(0), c->tensor(1)});
}

int shim_bwd(
    const ElementShimCall* c, const char* kind, const void* noise, bool beta_each, void* dbeta, void* dnoise) {
  return smoothing_bwd(
      smoothing_call(c, kind, noise, beta_each, dbeta, dnoise), c->blocks(),
      {c->tensor(0), c->tensor(1), c->tensor(2)});
}

int shim_log_prob_fwd(const ElementShimCall* c, const char* kind, bool beta_each) {
  return smoothing_log_prob_fwd(
      smoothing_call(c, kind, nullptr, beta_each, nullptr, nullptr), c->blocks(),
      {c->tensor(0), c->tensor(1), c->tensor(2)});
}

int shim_log_prob_bwd(const ElementShimCall* c, const char* kind, bool beta_each, void* dbeta) {
  return smoothing_log_prob_bwd(
      smoothing_call(c, kind, nullptr, beta_each, dbeta, nullptr), c->blocks(),
      {c->tensor(0), c->tensor(1), c->tensor(2), c->tensor(3), c->tensor(4)});
}

// Whether a forward call uses 16-byte accesses.
int shim_vector(const ElementShimCall* c, const void* noise, bool beta_each) {
  return smoothing_call(c, "", noise, beta_each, nullptr, nullptr)
      .plan(c->blocks(), {c->tensor(0), c->tensor(1)})
      .vector;
}
}
