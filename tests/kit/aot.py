"""Compile Triton kernels for GPUs that are not here, just as a launcher would launch them, and read the machine code.

A launcher is called with meta tensors, and its launches are compiled instead of run, in a process of its own so that
the pretended GPU stays there. Triton's disk cache, keyed by the hash of the source, makes the second run quick.

The second half says what the machine code of every kernel must and must not contain; an op's test_aot.py adds its
launches and its budgets.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch


@dataclass(frozen=True)
class Binary:
    """One compiled kernel. Counts are of instructions in the code, each branch and each loop body once."""

    kernel: str
    tiles: int  # that one program loops over
    per_thread: float  # elements of a tile that one thread holds
    usage: dict[str, int]  # REG, STACK, LOCAL as cuobjdump reports them, and SHARED
    opcodes: Counter[str]

    def count(self, prefix: str) -> int:
        """Instructions whose name starts with the regular expression `prefix`."""
        return sum(n for opcode, n in self.opcodes.items() if re.match(prefix, opcode))

    def per_element(self, prefix: str = "") -> float:
        return self.count(prefix) / self.per_thread

    def wide_bytes(self, prefix: str) -> int:
        """Bytes a thread moves by 16-byte (or wider) accesses named `prefix`."""
        widths = {"128": 16, "256": 32}
        return sum(n * widths.get(opcode.split(".")[-1], 0) for opcode, n in self.opcodes.items()
                   if opcode.startswith(prefix))  # fmt: skip


def compile_launches(cache: str, module: str, arch: int, call: Callable[..., Any], *args: Any) -> list[Binary]:
    """The kernels that `call(*args)` launches through `module.launch`, compiled for sm_<arch>. Runs in a worker.

    A kernel's tile has the size of its options ROWS, BLOCK and BLOCK_*; TILES is how many of them a program loops over.
    """
    assert os.environ.get("TRITON_INTERPRET") != "1", "kernels decorated for the interpreter cannot be compiled"
    import importlib

    import triton

    triton.knobs.cache.dir = cache
    triton.runtime.driver.set_active(_PretendedDriver(arch))
    binaries = []

    def launch(kernel: Any, programs: int, *launch_args: Any, **options: Any) -> None:
        compiled = kernel.warmup(*launch_args, grid=(programs,), **options)
        tile = math.prod(size for name, size in options.items() if re.fullmatch("ROWS|BLOCK(_.*)?", name))
        per_thread = tile / (32 * options["num_warps"])
        usage, opcodes = _disassemble(compiled.asm["cubin"], triton.knobs.nvidia.cuobjdump.path)
        usage["SHARED"] = compiled.metadata.shared  # given at launch, so not in the binary
        binaries.append(Binary(kernel.fn.__name__, options.get("TILES", 1), per_thread, usage, opcodes))

    importlib.import_module(module).launch = launch  # type: ignore[attr-defined]
    call(*args)
    return binaries


class _PretendedDriver:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, arch: int):
        self._arch = arch

    def get_current_device(self) -> int:
        return self._arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._arch, 32)


def _disassemble(cubin: bytes, cuobjdump: str) -> tuple[dict[str, int], Counter[str]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [cuobjdump, "-sass", "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    # /*01a0*/   @!P0 LDG.E.128 R4, desc[UR8][R2.64] ;
    opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", text))
    assert usage and opcodes["EXIT"], text[:2000]
    del opcodes["NOP"]  # padding
    return usage, opcodes


# Another Triton than the pinned one may take so many times the registers and the shared memory, and spill so many
# bytes, few of them in loops; no budget of instructions holds it.
OTHERS_FACTOR, OTHERS_STACK = 1.5, 32
# Kernels that spill more under one of them, by the version and the name: a slower kernel, which docs/support.md names.
SPILLS = {("3.9.0", "_gumbel_rao_bwd_kernel"): 192}


def pinned() -> bool:
    """Whether this Triton is the one of requirements/dev.txt, whose machine code the budgets describe."""
    import triton

    requirements = Path(__file__).parents[2] / "requirements" / "dev.txt"
    return f"triton=={triton.__version__}" in requirements.read_text().splitlines()


def allowed_stack(binary: Binary) -> int:
    import triton

    return SPILLS.get((triton.__version__, binary.kernel), OTHERS_STACK)


Shape = tuple[int, ...]
# Launches kernels of an op on meta tensors of `dtype` and `shape`.
Launches = Callable[[torch.dtype, Shape], None]


class Case(NamedTuple):
    arch: int
    dtype: torch.dtype
    name: str  # of the shape
    shape: Shape
    aligned: bool = True  # rows begin at multiples of 16 bytes

    def __str__(self) -> str:
        return f"sm{self.arch}-{str(self.dtype).removeprefix('torch.')}-{self.name}"


_ROWS = {"k8192": (4096, 8192), "k512s": (64, 512, 32, 32), "k262144": (64, 262144)}
# Rows held on chip, strided ones and rows in a loop, the categories along dimension 1.
ROW_CASES = [
    *(Case(90, dtype, name, shape) for name, shape in _ROWS.items() for dtype in (torch.float32, torch.bfloat16)),
    *(Case(arch, torch.float32, "k8192", _ROWS["k8192"]) for arch in (80, 100)),
]


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
    factor, stack = (1, 0) if pinned() else (OTHERS_FACTOR, allowed_stack(binary))
    assert binary.usage["STACK"] <= stack and binary.usage["LOCAL"] == 0, what
    assert binary.count("LDL|STL") <= stack, what
    assert binary.count("D(ADD|MUL|FMA|SETP|MNMX)|.*F64") == 0, what
    assert binary.count("RET") == 0, what  # a subroutine; CALL alone also ends loops on sm_80
    assert binary.usage["REG"] <= factor * ceiling.registers, what
    assert binary.usage["SHARED"] <= factor * ceiling.shared, what
    if not pinned():
        return

    # per element, by pipe
    pipes = {"": budget.total, "MUFU": budget.mufu, "IMAD(?!.MOV|.IADD|.SHL)": budget.imad,
             "IMAD.(WIDE|HI)": budget.imad_wide}  # fmt: skip
    values = {prefix: binary.per_element(prefix) for prefix in pipes}
    over = [f"{values[prefix]:.2f} {prefix or 'instructions'} per element, budget {limit}"
            for prefix, limit in pipes.items() if values[prefix] > limit]  # fmt: skip
    assert not over, f"{what}: " + "; ".join(over)
    # I2F shares the pipe of MUFU; sm_80 has no other, later ones convert on the integer pipe (I2FP)
    slow_conversions = budget.draws * binary.per_thread if case.arch == 80 else 0
    assert binary.count("I2F(?!P)|F2I") <= slow_conversions + 2, what

    # memory in 16-byte pieces, every element exactly as often as planned
    if case.aligned:
        tile = binary.per_thread * case.dtype.itemsize
        for access, count in (("LDG", budget.reads), ("STG", budget.writes)):
            assert count is None or binary.wide_bytes(access) == tile * count, f"{what}: {access}"
