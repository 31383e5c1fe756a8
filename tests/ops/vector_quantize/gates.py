"""The CUDA kernels of vector_quantize: rows beside their codes, read once or (with a rotation) thrice."""

from kit.nvcc import Gates, Kernel, Loop, wide_accesses


def _role(loop: Loop) -> str | None:
    """read: into sums over a row, of which the backward's squares are the shorter one. write: the results of a row."""
    if wide_accesses(loop, "STG"):
        return "write"
    return "read" if wide_accesses(loop, "LDG") else None


def _columns(kernel: Kernel, loop: Loop, role: str) -> int:
    return 4 if "VectorTensor<float, 4>" in kernel.name else 8


KERNELS = {
    "vector_quantize_fwd": Gates(
        registers=56,
        loops={
            "read": {"total": 9.5, "mufu": 0, "wide": 0.5, "convert": 0, "memory": 0.5},
            "write": {"total": 7, "mufu": 0, "wide": 0.75, "convert": 0.5, "memory": 0.75},
        },
        narrow_loads=1,  # the index
        narrow_stores=1,  # the error
        role=_role,
        columns=_columns,
    ),
    "vector_quantize_bwd": Gates(
        registers=64,
        # with the rotation, the commitment and the gradient to the codes
        loops={
            "read": {"total": 7.25, "mufu": 0, "wide": 0.5, "convert": 0, "memory": 0.5},
            "write": {"total": 24, "mufu": 0, "wide": 1.25, "convert": 0.5, "memory": 1.25},
        },
        narrow_loads=2,  # the index, and the gradient of the loss
        role=_role,
        columns=_columns,
    ),
}
