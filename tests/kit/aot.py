"""What the machine code of every Triton kernel must and must not contain; a room adds its launches and its budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

import pytest
import torch
from compile import Binary, compile_launches

Shape = tuple[int, ...]
# Launches kernels of a room on meta tensors of `dtype` and `shape`.
Launches = Callable[[torch.dtype, Shape], None]


class Case(NamedTuple):
    arch: int
    dtype: torch.dtype
    name: str  # of the shape
    shape: Shape
    aligned: bool = True  # rows begin at multiples of 16 bytes

    def __str__(self) -> str:
        return f"sm{self.arch}-{str(self.dtype).removeprefix('torch.')}-{self.name}"


class Budget(NamedTuple):
    """Ceilings per element of a tile, of all instructions in the code and by pipe; how often it is drawn, read and
    written, each read and write in 16-byte pieces (None: they are not of the case's dtype, or not wide)."""

    total: float
    mufu: float  # MUFU: lg2, ex2, rcp
    imad: float  # 32-bit integer multiplications
    imad_wide: float  # those of double cost: IMAD.WIDE, IMAD.HI
    draws: int
    reads: float | None
    writes: float | None


class Ceiling(NamedTuple):
    registers: int
    shared: int  # bytes


def submit(
    request: pytest.FixtureRequest, pool: ProcessPoolExecutor, module: str, launches: Launches, cases: Sequence[Case]
) -> dict[Case, Future[list[Binary]]]:
    """What `launches` launches through `module.launch`, compiled for those `cases` whose tests were selected."""
    cache = str(request.config.cache.mkdir("triton"))
    selected = {item.callspec.params["case"] for item in request.session.items if item.fspath == request.node.fspath}
    return {
        case: pool.submit(compile_launches, cache, module, case.arch, launches, case.dtype, case.shape)
        for case in cases
        if case in selected
    }


def check(binary: Binary, case: Case, budget: Budget, ceiling: Ceiling) -> None:
    what = f"{binary.kernel} {case}: {binary.usage}"

    # in registers, in float32, without subroutines
    assert binary.usage["STACK"] == binary.usage["LOCAL"] == 0, what
    assert binary.count("LDL|STL") == 0, what
    assert binary.count("D(ADD|MUL|FMA|SETP|MNMX)|.*F64") == 0, what
    assert binary.count("RET") == 0, what  # a subroutine; CALL alone also ends loops on sm_80
    assert binary.usage["REG"] <= ceiling.registers, what
    assert binary.usage["SHARED"] <= ceiling.shared, what

    # per element, by pipe
    pipes = {"": budget.total, "MUFU": budget.mufu, "IMAD(?!.MOV|.IADD|.SHL)": budget.imad,
             "IMAD.(WIDE|HI)": budget.imad_wide}  # fmt: skip
    for prefix, limit in pipes.items():
        value = binary.per_element(prefix)
        assert value <= limit, f"{what}: {value:.2f} {prefix or 'instructions'} per element, budget {limit}"
    # I2F shares the pipe of MUFU; sm_80 has no other, later ones convert on the integer pipe (I2FP)
    slow_conversions = budget.draws * binary.per_thread if case.arch == 80 else 0
    assert binary.count("I2F(?!P)|F2I") <= slow_conversions + 2, what

    # memory in 16-byte pieces, every element exactly as often as planned
    if case.aligned:
        tile = binary.per_thread * case.dtype.itemsize
        for access, count in (("LDG", budget.reads), ("STG", budget.writes)):
            assert count is None or binary.wide_bytes(access) == tile * count, f"{what}: {access}"
