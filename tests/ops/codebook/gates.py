"""The CUDA kernels of gather_codes, code_sums and code_statistics."""

from kit.nvcc import VECTOR_DTYPES, Gates, Kernel, Loop, wide_accesses


def _role(loop: Loop) -> str | None:
    """walk: over the rows of a block, or the columns of a row, adding up. copy: the words of a row."""
    if not wide_accesses(loop, "LDG"):
        return None
    return "walk" if any(i.base == "FADD" for i in loop) else "copy"


def _columns(kernel: Kernel, loop: Loop, role: str) -> int:
    return wide_accesses(loop, "LDG") * 16 // min(kernel.sizes, default=4)


KERNELS = {
    "gather_codes": Gates(
        registers=32,
        loops={"copy": {"total": 6.5, "mufu": 0, "wide": 0.75, "convert": 0, "memory": 1}},
        vector=1,
        strided=3,
        narrow_loads=1,  # the index
        role=_role,
        columns=_columns,
    ),
    "code_keys": Gates(registers=16, vector=0, strided=1),
    "finite_code_keys": Gates(
        registers=32,
        loops={"walk": {"total": 4.75, "mufu": 0, "wide": 0.25, "convert": 0, "memory": 0.25}},
        vector=VECTOR_DTYPES,
        narrow_loads=1,  # the index
        narrow_stores=1,
        wide_stores=False,
        role=_role,
        columns=_columns,
    ),
    "code_counts": Gates(registers=24, vector=0, strided=2),
    "code_sums": Gates(
        registers=96,
        # with the end of a run, which most rows skip
        loops={"walk": {"total": 22, "mufu": 0, "wide": 1.25, "convert": 0, "memory": 1.5}},
        vector=VECTOR_DTYPES,
        narrow_loads=24,  # codes and row numbers
        narrow_stores=2,  # the codes of the partial rows
        role=_role,
        columns=_columns,
    ),
}
