"""The CUDA kernels of nearest_code, which score by the definition in float64. Its first pass lives on float32 FMAs."""

from kit.nvcc import Gates, Kernel, Loop


def _role(loop: Loop) -> str | None:
    """product: four columns of the scores of 8 rows, or 2, and 8 codes. tile: that, the copies, and what is kept."""
    if sum(i.base == "FFMA" for i in loop) < 64:
        return None
    return "tile" if any(i.base == "BAR" for i in loop) else "product"


def _columns(kernel: Kernel, loop: Loop, role: str) -> int:
    products = sum(i.base == "FFMA" for i in loop)
    return products if role == "product" else products // 4


KERNELS = {
    "code_terms": Gates(registers=40, vector=0, decides_in_double=True),
    "centre_codes": Gates(registers=48, vector=0, decides_in_double=True),
    "code_tiles": Gates(registers=48, vector=0, decides_in_double=True),
    "nearest_code": Gates(
        registers=128,  # two blocks of 256 threads on a multiprocessor
        registers_double=192,
        # per FMA; and per score with all code of a turn, also that for rows that do not stay in shared memory
        loops={"product": {"total": 1.3, "memory": 0.1875}, "tile": {"total": 21, "mufu": 0.1, "memory": 1.5}},
        instances={", 8>": {"product": {"total": 1.1, "memory": 0.0625}, "tile": {"total": 10.5}}},
        vector=0,
        strided=4,
        any_layout=True,
        decides_in_double=True,
        role=_role,
        columns=_columns,
    ),
}
