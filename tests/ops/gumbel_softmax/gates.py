"""The CUDA kernels of gumbel_softmax."""

from kit.nvcc import Gates

# Two blocks of 512 threads fit at 64 registers; recomputing rows are bound by shared memory before that.
KERNELS = {
    "gumbel_softmax_fwd": Gates(
        registers=64,
        loops={
            "draw": {"total": 43, "mufu": 3.25, "wide": 5, "convert": 1, "memory": 0.5},
            "pick": {"total": 41, "mufu": 2, "wide": 5, "convert": 1, "memory": 0.25},
            "write": {"total": 7.5, "mufu": 1, "wide": 0.25, "convert": 0.5, "memory": 0.5},
            "mark": {"total": 6, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.25},
        },
        narrow_stores=1,  # the index
    ),
    "gumbel_softmax_bwd": Gates(
        registers=64,
        loops={
            "read": {"total": 10.5, "mufu": 0, "wide": 0.5, "convert": 0, "memory": 1},
            "write": {"total": 7, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.75},
            "mark": {"total": 6, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.25},
        },
    ),
    "gumbel_softmax_recompute_bwd": Gates(
        registers=96,
        loops={
            "draw": {"total": 50, "mufu": 3.25, "wide": 5.5, "convert": 1, "memory": 1},
            # holds the body twice: with and without the gradient of tau
            "write": {"total": 21.5, "mufu": 2, "wide": 0.25, "convert": 0.5, "memory": 0.75},
            "mark": {"total": 6, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.25},
        },
        narrow_stores=2,  # the rows' parts of the gradient to tau, and their zeros where tau = 0
    ),
}
