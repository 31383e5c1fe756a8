"""Kernels of nearest_code compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

import importlib
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest
import torch

from kit.aot import Binary, Budget, Case, Ceiling, check, pinned, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# Rows and columns: products of one piece, kept whole, and of eight pieces.
_SHAPES = {f"d{d}": (16384, d) for d in (8, 64, 256, 512)}
_CASES = [
    Case(arch, dtype, name, _SHAPES[name], aligned=name != "d8")
    for arch, dtype, name in (
        (90, torch.float32, "d64"), (90, torch.bfloat16, "d8"), (90, torch.bfloat16, "d256"),
        (90, torch.bfloat16, "d512"), (80, torch.float32, "d64"), (100, torch.float32, "d64"),
    )
]  # fmt: skip
_PREPARE = ("code_terms", "amax", "pack_codes")  # once a call, and compiled for one case
_REGISTERS = {"code_terms": 64, "amax": 48, "pack_codes": 80, "half_rows": 80}
# Of the whole product, prologue included, per score: two in the epilogue, and what brings the codes and takes the
# maxima; an sm_100 peels the first turn of its loop.
_PER_SCORE = {"d8": 4.6, "d64": 5.5, "d256": 10.6, "d512": 6.4}
_HALF_ROWS = Budget(52, 0.5, 5, 0.9, 0, None, None)


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    import triton

    ops: Any = importlib.import_module("dvae_kernels.ops.nearest_code.triton_kernels")
    packing: Any = importlib.import_module("dvae_kernels.ops.nearest_code.triton_packing")
    arch = triton.runtime.driver.active.get_current_target().arch
    launch = ops.launch
    prepares = {f"_{name}_kernel" for name in _PREPARE} if (arch, dtype) != (90, torch.float32) else ()

    def launch_some(kernel: Any, *args: Any, **options: Any) -> None:
        if kernel.fn.__name__ not in prepares:
            launch(kernel, *args, **options)

    packing.launch = launch_some
    ops.gpu_of = lambda device: packing.Gpu(166912 if arch == 80 else 232448, arch)
    x, codes = (torch.empty(1, n, shape[1], dtype=dtype, device="meta") for n in (shape[0], 8192))
    ops.nearest_code(x, codes, "l2", "exact", False)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels.ops.nearest_code.triton_kernels", launch_all, _CASES)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = {b.kernel[1 : -len("_kernel")]: b for b in compiled[case].result()}
    first = (case.arch, case.dtype) == (90, torch.float32)
    assert list(binaries) == [*(_PREPARE if first else ()), "half_rows", "block_maxima", "decide"]
    for name, binary in binaries.items():
        what = f"{name} {case}: {binary.usage} {binary.opcodes}"
        assert binary.usage["STACK"] == binary.usage["LOCAL"] == 0 and not binary.count("LDL|STL"), what
        if name in _REGISTERS:
            assert binary.usage["REG"] <= _REGISTERS[name], what
    check(binaries["half_rows"], case, _HALF_ROWS, Ceiling(80, 512))
    if not pinned():
        return
    check_product(binaries["block_maxima"], case)
    decide = binaries["decide"]
    # within a warp, 32 of them on a multiprocessor; columns of the codes by eight and one by one, then the terms
    assert decide.usage["SHARED"] == 0 and decide.usage["REG"] <= 64, f"{case}: {decide.usage}"
    assert 9 <= decide.count("DFMA|DADD|DMUL") / max(1, decide.per_thread) <= 17, f"{case}: {decide.opcodes}"


def check_product(binary: Binary, case: Case) -> None:
    """Scores are multiplied on tensor cores and reduced in registers, two instructions each."""
    what, scores, columns = f"{case}: {binary.usage} {binary.opcodes}", binary.per_thread, case.shape[1]
    assert binary.count("LDGSTS.E.BYPASS.128"), what  # codes, in 16-byte pieces
    if case.arch != 90:
        assert binary.count("UTCHMMA" if case.arch == 100 else "HMMA.16816.F32"), what
        return
    # 64x128 by 16 columns each, by four warps
    depth = 64 if columns > 256 else max(columns, 16)
    assert binary.count("HGMMA.64") == depth // 16 * scores // 64, what
    assert binary.count("FFMA") == scores and binary.count("FMNMX") <= scores, what
    assert binary.count("SHFL") <= 4, what
    assert binary.per_element() <= _PER_SCORE[case.name], f"{binary.per_element()} {what}"
    # two programs at a time on a multiprocessor, but where 64 KB of rows are kept
    if columns != 256:
        threads = 128 * 128 // scores
        assert binary.usage["REG"] * threads <= 32768 and binary.usage["SHARED"] <= 116224, what
