"""The CUDA kernels of ReinMax and Gumbel-Rao."""

from kit.nvcc import Gates, Kernel, Loop, row_columns, row_role, wide_accesses


def _role(loop: Loop) -> str | None:
    """weigh: a draw's weights, from shared memory to shared memory. finish: read, weigh all draws again, write."""
    if wide_accesses(loop, "LDG") and wide_accesses(loop, "STG"):
        return "finish" if any(i.opcode == "MUFU.LG2" for i in loop) else None
    if wide_accesses(loop, "LDS") and wide_accesses(loop, "STS"):
        return "weigh"
    return row_role(loop)


def _columns(kernel: Kernel, loop: Loop, role: str) -> int:
    if role == "weigh":  # four arrays in quads
        return wide_accesses(loop, "LDS")
    return row_columns(kernel, loop, role)


_MARK = {"total": 2, "mufu": 0, "wide": 0.25, "convert": 0, "memory": 0.25}
KERNELS = {
    "reinmax_bwd": Gates(
        registers=64,
        registers_double=160,
        loops={
            "read": {"total": 20.5, "mufu": 2.5, "wide": 0.5, "convert": 0, "memory": 1},
            "write": {"total": 19, "mufu": 2, "wide": 0.25, "convert": 0.5, "memory": 0.75},
            "mark": _MARK,
        },
        role=_role,
    ),
    "gumbel_rao_bwd": Gates(
        registers=104,
        registers_double=160,
        loops={
            "read": {"total": 13.5, "mufu": 1.25, "wide": 0.5, "convert": 0, "memory": 1},
            "weigh": {"total": 55, "mufu": 4.25, "wide": 4.75, "convert": 1, "memory": 1.5},
            "write": {"total": 9, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 1},
            "mark": _MARK,
        },
        narrow_loads=4,  # the key, tau and the index
        role=_role,
        columns=_columns,
    ),
    "gumbel_rao_wide_bwd": Gates(
        registers=128,
        registers_double=160,
        loops={
            "read": {"total": 8.5, "mufu": 1.25, "wide": 0.25, "convert": 0, "memory": 0.25},
            "pick": {"total": 51, "mufu": 4.25, "wide": 5.25, "convert": 1, "memory": 0.5},
            "finish": {"total": 73, "mufu": 4.75, "wide": 10.5, "convert": 1.75, "memory": 1.25},
            "mark": _MARK,
        },
        narrow_loads=6,  # and the two sums of a draw
        narrow_stores=2,
        role=_role,
        columns=_columns,
    ),
}
