// From torch tensors to kernel arguments, for the CUDA ops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "cuda/arguments.cuh"
#include "torch/tensor.h"

namespace dvae {

// The current stream of `like`'s device.
inline Stream current_stream(const Tensor& like) {
  const auto device = like.get_device_index();
  check_cuda(cudaSetDevice(device));  // as torch's guard did in its own copy of the CUDA runtime
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<Stream>(stream);
}

// The function that runs a launcher on the current stream.
template <class Args>
auto on_stream(const Tensor& like, void (*launcher)(Stream, const Args&)) {
  return [like, launcher](const Args& args) { launcher(current_stream(like), args); };
}

// A number, or a tensor of one that is read where it lies.
inline ScalarArgument device_scalar(const std::optional<Tensor>& tensor, double value, const Tensor& like) {
  if (!tensor.has_value()) return {nullptr, value};
  STD_TORCH_CHECK(
      tensor->scalar_type() == compute_type(like.scalar_type()) && tensor->numel() == 1,
      "dvae_kernels: expected a temperature to be one value in the compute type");
  check_same_device(*tensor, like);
  return {tensor->const_data_ptr(), value};
}

// The call's arguments as kernels take them, on the current stream of `like`'s device.
inline RowCall make_call(
    const Tensor& like, const std::optional<Tensor>& tau, double tau_value, const Tensor* key = nullptr,
    int64_t row_offset = 0) {
  const KeyWords words = key_words(key ? std::optional(*key) : std::nullopt, like);
  const ScalarArgument scalar = device_scalar(tau, tau_value, like);
  const NoiseArgument noise{words, static_cast<uint32_t>(row_offset)};
  return {noise, scalar.data, scalar.value, current_stream(like)};
}

}  // namespace dvae
