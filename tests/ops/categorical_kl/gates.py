"""The CUDA kernels of the categorical divergence, held to what they take with a prior."""

from kit.nvcc import VECTOR_DTYPES, Gates

KERNELS = {
    "categorical_kl_fwd": Gates(
        registers=64,
        registers_double=160,
        loops={"read": {"total": 20.5, "mufu": 2.25, "wide": 0.25, "convert": 0, "memory": 0.75}},
        vector=2 * VECTOR_DTYPES,
        strided=4,
        narrow_loads=0,
        narrow_stores=1,
        wide_stores=False,
    ),
    "categorical_kl_bwd": Gates(
        registers=72,
        registers_double=192,
        loops={
            "read": {"total": 29.5, "mufu": 2.5, "wide": 0.5, "convert": 0, "memory": 1},
            "write": {"total": 13, "mufu": 2, "wide": 0.25, "convert": 0.5, "memory": 0.75},
        },
        vector=2 * VECTOR_DTYPES,
        strided=4,
        narrow_loads=1,  # the row's gradient
    ),
}
