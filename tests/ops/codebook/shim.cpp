// The CUDA kernels of gathering, summing and counting codes as a CPU library for ctypes.
#include "codebook/kernels.cuh"

using namespace dvae;

extern "C" {

void shim_gather_codes(void* codebook, int storage, int64_t codes, int64_t stride, int64_t columns,
                       const int64_t* indices, int64_t rows, void* output) {
  gather_codes({}, {codebook, static_cast<Storage>(storage)}, codes, stride, columns, indices, rows, output);
}

int shim_gathers_vectors(void* codebook, int storage, int64_t stride, int64_t columns) {
  return gathers_vectors({codebook, static_cast<Storage>(storage)}, stride, columns);
}

void shim_code_keys(const int64_t* indices, int64_t rows, int32_t num_codes, int32_t* keys) {
  code_keys({}, indices, rows, num_codes, keys);
}

void shim_finite_code_keys(void* x, int storage, int64_t stride, int64_t columns, const int64_t* indices, int64_t rows,
                           int32_t num_codes, int32_t* keys) {
  finite_code_keys({}, {x, static_cast<Storage>(storage)}, stride, columns, indices, rows, num_codes, keys);
}

void shim_code_counts(const int32_t* codes, int64_t rows, int32_t num_codes, int storage, void* counts) {
  code_counts({}, codes, rows, num_codes, static_cast<Storage>(storage), counts);
}

int64_t shim_scratch_count(int64_t rows) { return scratch_count(rows); }

void shim_code_sums(void* x, int storage, int64_t stride, int64_t columns, const int64_t* order, const int32_t* codes,
                    int64_t rows, int32_t num_codes, void* sums, void* partial_rows, int32_t* partial_codes) {
  const SortedRows sorted{{x, static_cast<Storage>(storage)}, stride, columns, order, codes, rows, num_codes};
  code_sums({}, sorted, sums, {partial_rows, partial_codes});
}
}
