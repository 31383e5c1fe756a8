// CUDA backend of the nearest code: the op on torch tensors. It is exact whatever the precision asked for.

#include <tuple>

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

template <class Acc>
void search(
    const Tensor& x, const Tensor& codebook, const Metric& metric, bool with_score, NearestOutputs& outputs) {
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
  args.indices = static_cast<int64_t*>(outputs.indices.mutable_data_ptr());
  args.scores = with_score ? static_cast<Acc*>(outputs.scores.mutable_data_ptr()) : nullptr;
  args.rescored = static_cast<unsigned long long*>(outputs.rescored.mutable_data_ptr());
  nearest_code(current_stream(x), args);
}

std::tuple<Tensor, Tensor, Tensor> nearest(
    Tensor x, Tensor codebook, Name metric_name, Name precision, bool with_score) {
  const Metric metric = checked_metric(metric_name);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  NearestOutputs outputs = new_nearest_outputs(x, codebook, precision, with_score);
  if (outputs.indices.numel() > 0) {
    x.scalar_type() == ScalarType::Double ? search<double>(x, codebook, metric, with_score, outputs)
                                          : search<float>(x, codebook, metric, with_score, outputs);
  }
  return {outputs.indices, outputs.scores, outputs.rescored};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CUDA, m) { m.impl("nearest_code.cuda", TORCH_BOX(&dvae::nearest)); }
