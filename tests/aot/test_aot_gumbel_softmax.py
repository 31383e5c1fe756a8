"""Gumbel-softmax kernels compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

import pytest
import torch
from compile import Binary, compile_launches

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

_MODULE = "dvae_kernels.ops.gumbel_softmax.triton_kernels"
_KERNELS = ("fwd", "bwd", "recompute_bwd")

# One shape for every row of the configuration table, the categories along dimension 1.
_CONTIGUOUS = {"k16": (65536, 16), "k4096": (4096, 4096), "k8192": (4096, 8192), "k16384": (4096, 16384),
               "k262144": (64, 262144)}  # fmt: skip
_STRIDED = {"k64s": (64, 64, 32, 32), "k512s": (64, 512, 32, 32), "k1024s": (64, 1024, 32, 32),
            "k8192s": (8, 8192, 32, 32)}  # fmt: skip
# Other variants of the same code: rows that are not aligned, and offsets beyond 32 bits.
_VARIANTS = {"k1001": (4096, 1001), "k8192-int64": (1 << 20, 8192), "k512s-int64": (4096, 512, 32, 64)}
_SHAPES = _CONTIGUOUS | _STRIDED | _VARIANTS
_ELSEWHERE = ("k8192", "k262144", "k512s", "k8192s")  # compiled for the other architectures too


class Case(NamedTuple):
    arch: int
    dtype: torch.dtype
    shape: str

    def __str__(self) -> str:
        return f"sm{self.arch}-{str(self.dtype).removeprefix('torch.')}-{self.shape}"


_CASES = [Case(90, torch.float32, name) for name in _SHAPES]
_CASES += [Case(90, torch.bfloat16, name) for name in _CONTIGUOUS | _STRIDED]
_CASES += [Case(arch, torch.float32, name) for arch in (80, 100) for name in _ELSEWHERE]


class Budget(NamedTuple):
    """Ceilings per element, of all instructions in the code and by pipe; how often it is drawn, read and written."""

    total: float
    mufu: float  # MUFU: lg2, ex2, rcp
    imad: float  # 32-bit integer multiplications
    imad_wide: float  # those of double cost: IMAD.WIDE, IMAD.HI
    draws: int
    reads: int
    writes: int


# By kernel and whether it loops over tiles. The forward holds the soft and the one-hot path, of which one runs.
_BUDGETS = {
    ("fwd", False): Budget(64, 3.4, 6.2, 5.2, 1, 1, 1),
    ("fwd", True): Budget(134, 8.6, 15.6, 13.9, 3, 3, 2),
    ("bwd", False): Budget(25, 0.35, 2, 1, 0, 2, 1),
    ("bwd", True): Budget(32, 0.35, 4.2, 0.7, 0, 4, 1),
    ("recompute_bwd", False): Budget(73, 3.4, 6.4, 5.4, 1, 2, 1),
    ("recompute_bwd", True): Budget(105, 6.7, 10.2, 9.4, 2, 4, 1),
}
# By kernel and whether the categories are strided: (registers, bytes of shared memory).
_CEILINGS = {
    ("fwd", False): (100, 16384), ("fwd", True): (176, 16384),
    ("bwd", False): (100, 512), ("bwd", True): (112, 1024),
    ("recompute_bwd", False): (128, 16384), ("recompute_bwd", True): (224, 16384),
}  # fmt: skip


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every kernel of the op once, with the gradient to the temperature."""
    from dvae_kernels.ops.gumbel_softmax import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    key = torch.empty(2, dtype=torch.int64, device="meta")
    tau = torch.empty((), dtype=torch.float32, device="meta")
    ops.gumbel_softmax_fwd(x, key, tau, 0.0, 1, False, 0, dtype)
    ops.gumbel_softmax_bwd(x, x, tau, 0.0, 1, dtype)
    ops.gumbel_softmax_recompute_bwd(x, x, key, tau, 0.0, 1, 0, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Iterator[dict[Case, Future[list[Binary]]]]:
    cache = str(request.config.cache.mkdir("triton"))
    selected = {item.callspec.params["case"] for item in request.session.items if item.fspath == request.node.fspath}
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield {
            case: pool.submit(compile_launches, cache, _MODULE, case.arch, launch_all, case.dtype, _SHAPES[case.shape])
            for case in _CASES
            if case in selected
        }
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    assert [b.kernel for b in binaries] == [f"_gumbel_softmax_{name}_kernel" for name in _KERNELS]
    for name, binary in zip(_KERNELS, binaries):
        strided = case.shape in _STRIDED or case.shape.startswith("k512s")
        budget = _BUDGETS[name, binary.tiles > 1]
        registers, shared = _CEILINGS[name, strided]
        what = f"{name} {case}: {binary.usage}"

        # in registers, in float32, without subroutines
        assert binary.usage["STACK"] == binary.usage["LOCAL"] == 0, what
        assert binary.count("LDL|STL") == 0, what
        assert binary.count("D(ADD|MUL|FMA|SETP|MNMX)|.*F64") == 0, what
        assert binary.count("RET") == 0, what  # a subroutine; CALL alone also ends loops on sm_80
        assert binary.usage["REG"] <= registers, what
        assert binary.usage["SHARED"] <= shared, what

        # per element, by pipe
        assert binary.per_element() <= budget.total, f"{what}: {binary.per_element()}"
        assert binary.per_element("MUFU") <= budget.mufu, f"{what}: {binary.per_element('MUFU')}"
        assert binary.per_element("IMAD(?!.MOV|.IADD|.SHL)") <= budget.imad, what
        assert binary.per_element("IMAD.(WIDE|HI)") <= budget.imad_wide, what
        # I2F shares the pipe of MUFU; sm_80 has no other, later ones convert on the integer pipe (I2FP)
        slow_conversions = budget.draws * binary.per_thread if case.arch == 80 else 0
        assert binary.count("I2F(?!P)|F2I") <= slow_conversions + 2, what

        # memory in 16-byte pieces, every element exactly as often as planned
        if case.shape != "k1001":
            tile = binary.per_thread * case.dtype.itemsize
            assert binary.wide_bytes("LDG") == tile * budget.reads, what
            assert binary.wide_bytes("STG") == tile * budget.writes, what
