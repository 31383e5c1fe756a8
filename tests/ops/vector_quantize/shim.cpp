// The CUDA kernels of vector_quantize as a CPU library for ctypes.
#include "vector_quantize/kernels.cuh"

using namespace dvae;

namespace {

Buffer buffer(const void* data, int storage) { return {const_cast<void*>(data), static_cast<Storage>(storage)}; }

}  // namespace

extern "C" {

// data and storage: x, codebook, quantized, codes or null, errors. sizes: rows, columns, codes.
void shim_vector_quantize_fwd(const void* const* data, const int* storage, const int64_t* sizes, int64_t x_stride,
                              int64_t codebook_stride, const int64_t* indices) {
  vector_quantize_fwd({}, {sizes[0], sizes[1], buffer(data[0], storage[0]), x_stride, buffer(data[1], storage[1]),
                codebook_stride, sizes[2], indices, buffer(data[2], storage[2]), buffer(data[3], storage[3]),
                buffer(data[4], storage[4])});
}

// data and storage: grad or null, gradient of the losses or null, x, codes, dx, dcodes or null.
void shim_vector_quantize_bwd(const void* const* data, const int* storage, const int64_t* sizes,
                              const int64_t* strides, const int64_t* indices, double commitment_weight,
                              double codebook_weight, int rotation) {
  vector_quantize_bwd({}, {sizes[0], sizes[1], buffer(data[0], storage[0]), strides[0], buffer(data[1], storage[1]),
                         buffer(data[2], storage[2]), strides[1], buffer(data[3], storage[3]), strides[2], indices,
                         commitment_weight, codebook_weight, rotation != 0, buffer(data[4], storage[4]),
                         buffer(data[5], storage[5])});
}
}
