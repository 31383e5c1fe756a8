// From torch tensors to kernel arguments, for the CUDA ops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "cuda/arguments.cuh"
#include "torch/tensor.h"

namespace dvae {

// The device of `like`, current while this stands, as the device of an op. cuda.cu adds run(args), which
// launches the kernel of these arguments.
struct CudaDevice {
  const Tensor& like;
  torch::stable::accelerator::DeviceGuard guard;

  explicit CudaDevice(const Tensor& like) : like(like), guard(like.get_device_index()) {}

  // The current stream.
  Stream stream() const {
    const auto index = like.get_device_index();
    check_cuda(cudaSetDevice(index));  // as torch's guard did in its own copy of the CUDA runtime
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
    return static_cast<Stream>(stream);
  }

  // A number, or a tensor of one that is read where it lies.
  static ScalarArgument scalar(const std::optional<Tensor>& tensor, double value, const Tensor& like) {
    if (!tensor.has_value()) return {nullptr, value};
    STD_TORCH_CHECK(
        tensor->scalar_type() == compute_type(like.scalar_type()) && tensor->numel() == 1,
        "dvae_kernels: expected a temperature to be one value in the compute type");
    check_same_device(*tensor, like);
    return {tensor->const_data_ptr(), value};
  }
};

}  // namespace dvae
