"""The CUDA kernels of the binary concrete distribution. All code is counted: the soft and the hard sample, and the path
of single elements beside that of 16-byte accesses, of which one runs."""

from kit.dtypes import PAIRS
from kit.nvcc import Gates

# Four blocks of 256 threads fit at 64 registers. Each pair of dtypes has a kernel, one of them in double. Narrow
# accesses are those of single elements, the key, tau and the blocks' sums.
KERNELS = {
    "binary_concrete_fwd": Gates(
        registers=64,
        code={"total": 67, "mufu": 4.25, "wide": 5.5, "convert": 3.5, "memory": 3},
        vector=len(PAIRS),
        strided=0,
        narrow_loads=11,
        narrow_stores=8,
    ),
    "binary_concrete_bwd": Gates(
        registers=64,
        code={"total": 83, "mufu": 4.25, "wide": 5.5, "convert": 3.5, "memory": 4.75},
        vector=len(PAIRS),
        strided=0,
        narrow_loads=19,
        narrow_stores=9,
    ),
    "binary_concrete_log_prob_fwd": Gates(
        registers=64,
        code={"total": 56, "mufu": 4.25, "wide": 0.25, "convert": 0, "memory": 4},
        vector=len(PAIRS),
        strided=0,
        narrow_loads=17,
        narrow_stores=8,
    ),
    "binary_concrete_log_prob_bwd": Gates(
        registers=64,
        code={"total": 101, "mufu": 5.25, "wide": 0.25, "convert": 3, "memory": 7},
        vector=len(PAIRS),
        strided=0,
        narrow_loads=25,
        narrow_stores=17,
    ),
}
