// From torch tensors to kernel arguments, for the CUDA ops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "cuda/arguments.cuh"
#include "torch/tensor.h"

namespace dvae {

// The device of `like`, and its current stream, for the time of a call.
struct DeviceCall {
  torch::stable::accelerator::DeviceGuard guard;
  Stream stream;

  explicit DeviceCall(const Tensor& like) : guard(like.get_device_index()) {
    const auto device = like.get_device_index();
    check_cuda(cudaSetDevice(device));  // as torch's guard did in its own copy of the CUDA runtime
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    stream = static_cast<Stream>(current);
  }
};

// tau as kernels read it: where it lies, or its value.
inline Tau device_tau(const std::optional<Tensor>& tau, double tau_value, const Tensor& like) {
  if (!tau.has_value()) return {nullptr, tau_value};
  STD_TORCH_CHECK(
      tau->scalar_type() == compute_type(like.scalar_type()) && tau->numel() == 1,
      "dvae_kernels: expected tau to be one value in the compute type");
  check_same_device(*tau, like);
  return {tau->const_data_ptr(), tau_value};
}

// The call's arguments as kernels take them, on the current stream of `like`'s device.
inline RowCall make_call(
    const Tensor& like, const std::optional<Tensor>& tau, double tau_value, const Tensor* key = nullptr,
    int64_t row_offset = 0) {
  RowCall call;
  if (key != nullptr) call.noise = noise_argument(*key, like, row_offset);
  const Tau argument = device_tau(tau, tau_value, like);
  call.tau = argument.data;
  call.tau_value = argument.value;
  call.stream = DeviceCall(like).stream;
  return call;
}

}  // namespace dvae
