"""The CUDA kernels of the concrete density."""

from kit.nvcc import Gates

KERNELS = {
    "gumbel_softmax_log_prob_fwd": Gates(
        registers=56,
        # read without a cache
        loops={"pick": {"total": 29.5, "mufu": 3.25, "wide": 0.5, "convert": 0, "memory": 0.5}},
        narrow_loads=1,  # tau
        narrow_stores=2,
        wide_stores=False,
    ),
    "gumbel_softmax_log_prob_bwd": Gates(
        registers=80,  # 62 with 16-byte accesses
        loops={
            "draw": {"total": 33.5, "mufu": 3.25, "wide": 0.5, "convert": 0, "memory": 1},
            "write": {"total": 10.5, "mufu": 1, "wide": 0.25, "convert": 0.5, "memory": 0.5},
        },
        narrow_loads=4,  # tau and the row's gradient
        narrow_stores=1,
    ),
}
