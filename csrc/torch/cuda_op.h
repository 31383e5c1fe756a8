// From torch tensors to kernel arguments, for the CUDA ops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "cuda/arguments.cuh"
#include "torch/tensor.h"

namespace dvae {

// The call's arguments as kernels take them, on the current stream of `like`'s device.
inline RowCall make_call(
    const Tensor& like, const std::optional<Tensor>& tau, double tau_value, const Tensor* key = nullptr,
    int64_t row_offset = 0) {
  RowCall call;
  if (key != nullptr) {
    check_key(*key, like);
    const auto* words = static_cast<const int64_t*>(key->const_data_ptr());
    call.noise = {words, key->stride(0), static_cast<uint32_t>(row_offset)};
  }
  if (tau.has_value()) {
    STD_TORCH_CHECK(
        tau->scalar_type() == compute_type(like.scalar_type()) && tau->numel() == 1,
        "dvae_kernels: expected tau to be one value in the compute type");
    check_same_device(*tau, like);
    call.tau = tau->const_data_ptr();
  }
  call.tau_value = tau_value;
  const auto device = like.get_device_index();
  check_cuda(cudaSetDevice(device));  // as torch's guard did in its own copy of the CUDA runtime
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  call.stream = static_cast<Stream>(stream);
  return call;
}

}  // namespace dvae
