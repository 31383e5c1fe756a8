// Checks and memory of the ops of Gumbel-softmax, for CPU and CUDA.
#pragma once

#include "common/indices.h"
#include "gumbel_softmax/arguments.h"
#include "torch/tensor.h"

namespace dvae {

class GumbelSoftmaxTensors {
 public:
  std::optional<Tensor> sample, index;

  // A sample of this dtype, and the index of each row, where they are wanted.
  GumbelSoftmaxTensors(
      const Tensor& logits, const Tensor& key, int64_t dim, int64_t row_offset, std::optional<ScalarType> dtype,
      bool wants_index)
      : logits_(logits), key_(key), dim_(dim), row_offset_(row_offset) {
    if (dtype.has_value()) {
      check_sample_type(logits.scalar_type(), *dtype);
      sample = empty_like(logits, *dtype);
    }
    if (wants_index) index = new_rows(logits, dim, ScalarType::Long);
    if (wants_index && logits.numel() == 0) torch::stable::fill_(*index, kNone);
  }

  // Calls run(args), unless there is nothing to compute.
  template <class Run>
  void run(const Tau& tau, bool hard, const Run& run) const {
    if (logits_.numel() == 0) return;
    const NoiseArgument noise = noise_argument(key_, logits_, row_offset_);
    int64_t* indices = index.has_value() ? index_data(*index) : nullptr;
    const int outputs = sample.has_value() ? 1 : 0;
    with_coalesced_rows<2>({logits_, sample.value_or(logits_)}, dim_, outputs, [&](Rows<2> rows) {
      if (!sample.has_value()) rows.tensors[1].data = nullptr;
      run(GumbelSoftmaxArgs{rows, noise, tau, hard, indices});
    });
  }

 private:
  Tensor logits_, key_;
  int64_t dim_, row_offset_;
};

class GumbelSoftmaxBackwardTensors {
 public:
  Tensor dlogits;

  GumbelSoftmaxBackwardTensors(const Tensor& grad, const Tensor& y, int64_t dim, ScalarType dtype)
      : dlogits(empty_like(y, dtype)), grad_(grad), y_(y), dim_(dim) {
    check_sample_type(dtype, y.scalar_type());
    STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gumbel_softmax: expected grad of the sample's dtype");
  }

  template <class Run>
  void run(const Tau& tau, const Run& run) const {
    if (y_.numel() == 0) return;
    with_coalesced_rows<3>({grad_, y_, dlogits}, dim_, 1, [&](const Rows<3>& rows) {
      run(GumbelSoftmaxBackwardArgs{rows, tau});
    });
  }

 private:
  Tensor grad_, y_;
  int64_t dim_;
};

class GumbelSoftmaxRecomputeTensors {
 public:
  Tensor dlogits, dtau_rows;

  GumbelSoftmaxRecomputeTensors(
      const Tensor& grad, const Tensor& logits, const std::optional<Tensor>& key, int64_t dim, int64_t row_offset,
      bool tau_grad)
      : dlogits(empty_like(logits, logits.scalar_type())),
        dtau_rows(new_tau_rows(logits, dim, tau_grad)),
        grad_(grad),
        logits_(logits),
        key_(key),
        dim_(dim),
        row_offset_(row_offset) {
    check_sample_type(logits.scalar_type(), grad.scalar_type());
  }

  template <class Run>
  void run(const Tau& tau, const Run& run) const {
    if (logits_.numel() == 0) return;
    const NoiseArgument noise = noise_argument(key_, logits_, row_offset_);
    with_coalesced_rows<3>({grad_, logits_, dlogits}, dim_, 1, [&](const Rows<3>& rows) {
      run(GumbelSoftmaxRecomputeArgs{rows, noise, tau, optional_buffer(dtau_rows).data});
    });
  }

 private:
  Tensor grad_, logits_;
  std::optional<Tensor> key_;
  int64_t dim_, row_offset_;
};

}  // namespace dvae
