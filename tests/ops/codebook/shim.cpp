// The CUDA kernels of gathering, summing and counting codes as a CPU library for ctypes.
#include "codebook/kernels.cuh"

using namespace dvae;

namespace {

Buffer buffer(void* data, int storage) { return {data, static_cast<Storage>(storage)}; }

Buffer compute(void* data, int storage) {
  return {data, static_cast<Storage>(storage) == Storage::float64 ? Storage::float64 : Storage::float32};
}

}  // namespace

extern "C" {

void shim_gather_codes(void* codebook, int storage, int64_t codes, int64_t stride, int64_t columns,
                       const int64_t* indices, int64_t rows, void* output) {
  gather_codes({}, {rows, columns, buffer(codebook, storage), stride, codes, indices, buffer(output, storage)});
}

int shim_gathers_vectors(void* codebook, int storage, int64_t stride, int64_t columns) {
  return gathers_vectors(buffer(codebook, storage), stride, columns);
}

// x: null for keys of all rows, else rows that are not finite take no part.
void shim_code_keys(void* x, int storage, int64_t stride, int64_t columns, const int64_t* indices, int64_t rows,
                    int32_t num_codes, int32_t* keys) {
  code_keys({}, {rows, columns, buffer(x, storage), stride, indices, num_codes, keys});
}

void shim_code_counts(const int32_t* codes, int64_t rows, int32_t num_codes, int storage, void* counts) {
  code_counts({}, {codes, rows, num_codes, buffer(counts, storage)});
}

int64_t shim_scratch_count(int64_t rows) { return scratch_count(rows); }

void shim_code_sums(void* x, int storage, int64_t stride, int64_t columns, const int64_t* order, const int32_t* codes,
                    int64_t rows, int32_t num_codes, void* sums, void* partial_rows, int32_t* partial_codes) {
  const SortedRows sorted{buffer(x, storage), stride, columns, order, codes, rows, num_codes};
  code_sums({}, {sorted, compute(sums, storage), {partial_rows, partial_codes}});
}
}
