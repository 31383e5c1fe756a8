// CUDA backend of the nearest code. It is exact whatever the precision asked for.

#include "torch/cuda_op.h"
#include "nearest_code/kernels.cuh"
#include "nearest_code/tensors.h"

namespace dvae {
namespace {

template <class Acc>
HeadMatrix<Acc> head_matrix(const Tensor& tensor) {
  const Buffer buffer = buffer_of(tensor);
  return {buffer.data,      buffer.type,      tensor.size(1),  tensor.size(2),
          tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

struct Cuda : CudaDevice {
  using CudaDevice::CudaDevice;

  void search(
      const Tensor& x, const Tensor& codebook, const Metric& metric, const Tensor& indices, const Tensor& scores,
      const Tensor& rescored) const {
    const auto search_as = [&](auto scalar) {
      using Acc = decltype(scalar);
      NearestArgs<Acc> args{};
      args.x = head_matrix<Acc>(x);
      args.codes = head_matrix<Acc>(codebook);
      args.sizes = {x.size(0), codebook.size(1), x.size(2)};
      args.metric = metric;
      const NearestSizes& sizes = args.sizes;
      const Tensor doubles = new_vector(x, sizes.doubles(), ScalarType::Double);
      const Tensor centres = new_vector(x, sizes.centres(), compute_type(x.scalar_type()));
      const Tensor floats = new_vector(x, sizes.floats(), ScalarType::Float);
      args.take(static_cast<double*>(doubles.mutable_data_ptr()), static_cast<Acc*>(centres.mutable_data_ptr()),
                static_cast<float*>(floats.mutable_data_ptr()));
      args.indices = index_data(indices);
      args.scores = static_cast<Acc*>(optional_buffer(scores).data);
      args.rescored = static_cast<unsigned long long*>(rescored.mutable_data_ptr());
      nearest_code(stream(), args);
    };
    x.scalar_type() == ScalarType::Double ? search_as(double()) : search_as(float());
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) {
  m.impl("nearest_code.cuda", TORCH_BOX(&dvae::nearest_codes<dvae::Cuda>));
}
