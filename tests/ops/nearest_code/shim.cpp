// The CUDA kernels of the nearest code as a CPU library for ctypes.
#include "nearest_code/kernels.cuh"

using namespace dvae;

namespace {

template <class Acc>
void search(const void* const* data, const int* storage, const int64_t* strides, const int64_t* sizes,
            const char* metric, void** scratch, int64_t* indices, void* scores, int64_t* rescored) {
  const auto matrix = [&](int tensor, int64_t rows) {
    const int64_t* stride = strides + 3 * tensor;
    return HeadMatrix<Acc>{const_cast<void*>(data[tensor]), static_cast<Storage>(storage[tensor]), rows, sizes[3],
                           stride[0], stride[1], stride[2]};
  };
  NearestArgs<Acc> args{};
  args.x = matrix(0, sizes[1]);
  args.codes = matrix(1, sizes[2]);
  args.sizes = {sizes[0], sizes[2], sizes[3]};
  args.metric = *find_metric(metric);
  args.take(static_cast<double*>(scratch[0]), static_cast<Acc*>(scratch[1]), static_cast<float*>(scratch[2]));
  args.indices = indices;
  args.scores = static_cast<Acc*>(scores);
  args.rescored = reinterpret_cast<unsigned long long*>(rescored);
  nearest_code({}, args);
}

}  // namespace

extern "C" {

// sizes: heads, rows, codes, columns. Writes how many doubles, values of the compute type and floats are needed.
void shim_scratch(const int64_t* sizes, int64_t* counts) {
  const NearestSizes needs{sizes[0], sizes[2], sizes[3]};
  counts[0] = needs.doubles();
  counts[1] = needs.centres();
  counts[2] = needs.floats();
}

void shim_nearest_code(const void* const* data, const int* storage, const int64_t* strides, const int64_t* sizes,
                       const char* metric, void** scratch, int64_t* indices, void* scores, int64_t* rescored,
                       int64_t shared_limit) {
  shim::shared_limit = static_cast<size_t>(shared_limit);
  const auto run = static_cast<Storage>(storage[0]) == Storage::float64 ? search<double> : search<float>;
  run(data, storage, strides, sizes, metric, scratch, indices, scores, rescored);
}
}
