"""Compile Triton kernels for GPUs that are not here, just as a launcher would launch them, and read the machine code.

A launcher is called with meta tensors, and its launches are compiled instead of run, in a process of its own so that
the pretended GPU stays there. Triton's disk cache, keyed by the hash of the source, makes the second run quick.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
