// CPU backend of vector_quantize: the ops on torch tensors.

#include "simd/intrinsics.h"

#include <cmath>
#include <tuple>

#include "torch/parallel.h"
#include "vector_quantize/tensors.h"

#define DVAE_OP vector_quantize
#include "simd/foreach_target.h"

namespace dvae {
namespace {

std::tuple<Tensor, Tensor, Tensor> fwd(Tensor x, Tensor codebook, Tensor indices, bool keep_codes) {
  QuantizeTensors tensors(x, codebook, indices, keep_codes);
  if (x.numel() > 0) parallel_for_rows(DVAE_DISPATCH(vector_quantize_fwd), tensors.args());
  return {tensors.quantized, tensors.codes, tensors.errors};
}

std::tuple<Tensor, Tensor> bwd(
    std::optional<Tensor> grad, std::optional<Tensor> grad_losses, Tensor x, Tensor codes, Tensor indices,
    double commitment_weight, double codebook_weight, bool rotation, bool codes_grad) {
  QuantizeBackwardTensors tensors(grad, grad_losses, x, codes, indices, codes_grad);
  if (x.numel() > 0) {
    const auto args = tensors.args(commitment_weight, codebook_weight, rotation);
    parallel_for_rows(DVAE_DISPATCH(vector_quantize_bwd), args);
  }
  return {tensors.dx, tensors.dcodes};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("vector_quantize_fwd.cpp", TORCH_BOX(&dvae::fwd));
  m.impl("vector_quantize_bwd.cpp", TORCH_BOX(&dvae::bwd));
}
