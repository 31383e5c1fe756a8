"""What a room states about the machine code of its CUDA kernels; the tables lie in budgets/<room>.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sass import Instruction, Kernel

Loop = list[Instruction]
Pipes = dict[str, float]  # instructions per element: in total and by pipe

ELEMENTS_PER_THREAD = 8  # of elementwise kernels
COLUMNS_PER_TURN = 8  # of the reading loops of rows: chunks in flight times columns per chunk
_STORAGES = ("float", "Half", "BFloat16")


def wide_accesses(code: Loop, base: str) -> int:
    return sum(i.base == base and ".128" in i.opcode for i in code)


def row_role(loop: Loop) -> str | None:
    """What a loop over a row does; None for reductions and for the part of a row that does not fit on chip.

    draw: read, make noise, reduce, cache. pick: the same for a one-hot sample. read: without noise. write: from the
    cache. mark: one-hot, or zeros where tau = 0.
    """
    loads, stores = wide_accesses(loop, "LDG"), wide_accesses(loop, "STG")
    if loads and not stores:
        noise = any(i.opcode == "MUFU.LG2" for i in loop)
        return "read" if not noise else "draw" if wide_accesses(loop, "STS") else "pick"
    if stores and not loads:
        return "write" if wide_accesses(loop, "LDS") else "mark"
    return None


def row_columns(kernel: Kernel, loop: Loop, role: str) -> int:
    """Elements per turn: of a writing loop as many as it writes to one output."""
    if role in ("draw", "pick", "read"):
        return COLUMNS_PER_TURN
    last = re.findall("|".join(_STORAGES), kernel.name)[-1]  # the output is the last of the tensor types
    return wide_accesses(loop, "STG") * 16 // (4 if last == "float" else 2)


@dataclass(frozen=True)
class Gates:
    """Of all instantiations of one kernel template."""

    registers: int
    loops: dict[str, Pipes] = field(default_factory=dict)  # by role: no kernel with 16-byte accesses may exceed them
    # the same for instantiations that have the word in their names
    instances: dict[str, dict[str, Pipes]] = field(default_factory=dict)
    code: Pipes = field(default_factory=dict)  # of all code, per element of a thread; float kernels without loops
    vector: int = 5  # instantiations with 16-byte accesses: the pairs of dtypes
    strided: int = 2  # those for any layout: the compute types, of which one is double
    registers_double: int = 128
    narrow_loads: int = 3  # of a kernel with 16-byte accesses: the key (one or two loads) and tau
    narrow_stores: int = 0
    wide_stores: bool = True  # False: an output per row
    any_layout: bool = False  # the budgets of loops hold without 16-byte accesses to global memory, too
    decides_in_double: bool = False  # also for float inputs
    role: Callable[[Loop], str | None] = row_role
    columns: Callable[[Kernel, Loop, str], int] = row_columns
