// CUDA backend of vector_quantize: the ops on torch tensors.

#include <tuple>

#include "torch/cuda_op.h"
#include "vector_quantize/kernels.cuh"
#include "vector_quantize/tensors.h"

namespace dvae {
namespace {

std::tuple<Tensor, Tensor, Tensor> fwd(Tensor x, Tensor codebook, Tensor indices, bool keep_codes) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  QuantizeTensors tensors(x, codebook, indices, keep_codes);
  if (x.numel() > 0) vector_quantize_fwd(current_stream(x), tensors.args());
  return {tensors.quantized, tensors.codes, tensors.errors};
}

std::tuple<Tensor, Tensor> bwd(
    std::optional<Tensor> grad, std::optional<Tensor> grad_losses, Tensor x, Tensor codes, Tensor indices,
    double commitment_weight, double codebook_weight, bool rotation, bool codes_grad) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  QuantizeBackwardTensors tensors(grad, grad_losses, x, codes, indices, codes_grad);
  if (x.numel() > 0) {
    vector_quantize_bwd(
        current_stream(x), tensors.args(commitment_weight, codebook_weight, rotation));
  }
  return {tensors.dx, tensors.dcodes};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("vector_quantize_fwd.cuda", TORCH_BOX(&dvae::fwd));
  m.impl("vector_quantize_bwd.cuda", TORCH_BOX(&dvae::bwd));
}
