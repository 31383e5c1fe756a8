"""Compiling a .cu ahead of time and reading its machine code; what an op's gates.py states about its kernels."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kit.dtypes import FLOATS, PAIRS

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "nvcc"
ARCHITECTURES = ("80", "90", "100")
FLAGS = [
    "-std=c++17", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", "--threads", "2",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror", "-Werror=all-warnings",
]  # fmt: skip


def find_tool(name: str) -> str | None:
    """A CUDA tool on PATH, under CUDA_HOME, in the usual place, or (for cuobjdump) inside triton."""
    places = [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    if home := os.environ.get("CUDA_HOME"):
        places.insert(0, f"{home}/bin")
    try:
        import triton

        places.append(str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin"))
    except ImportError:
        pass
    return shutil.which(name, path=os.pathsep.join(places))


def compile_cuda(nvcc: str, source: Path) -> Path:
    """The object file of `source` for every architecture, cached by the text that goes into it."""
    headers = [p for p in sorted((ROOT / "csrc").rglob("*")) if p.suffix in (".h", ".cuh")]
    version = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    text = b"".join(p.read_bytes() for p in [source, *headers])
    text += repr((version, torch.__version__, FLAGS, ARCHITECTURES)).encode()
    target = CACHE / f"{source.parent.name}_{hashlib.sha256(text).hexdigest()[:16]}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        scratch = target.with_suffix(".tmp.o")
        include = ["-isystem", str(Path(torch.__file__).parent / "include"), f"-I{ROOT / 'csrc'}"]
        code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        command = [nvcc, *FLAGS, *include, *code, "-c", str(source), "-o", str(scratch)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        scratch.replace(target)
    return target


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its modifiers
    target: int | None  # of a branch

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]


@dataclass(frozen=True)
class Kernel:
    name: str  # demangled
    registers: int
    stack: int
    shared: int
    code: tuple[Instruction, ...]

    @property
    def double(self) -> bool:
        return "double" in self.name

    @property
    def sizes(self) -> list[int]:
        """The bytes of an element of each tensor with 16-byte accesses, which holds floats or a format of 16 bits."""
        return [4 if name == "float" else 2 for name in re.findall(r"VectorTensor<(\w+)", self.name)]

    @property
    def vector(self) -> bool:
        vector = any(word in self.name for word in ("VectorTensor", "uint4", "Elements"))
        return vector and "StoredElements<double>" not in self.name  # those go element by element

    def count(self, *bases: str) -> int:
        return sum(i.base in bases for i in self.code)

    def loops(self) -> Iterator[list[Instruction]]:
        """The bodies of the loops, innermost ones and those around them."""
        for branch in self.code:
            if branch.base == "BRA" and branch.target is not None and branch.target < branch.address:
                yield [i for i in self.code if branch.target <= i.address <= branch.address]


def pipes(code: list[Instruction]) -> Counter[str]:
    """Instructions by the unit that runs them."""
    units = {
        "mufu": ("MUFU",),
        "wide": ("IMAD.WIDE", "IMAD.HI"),
        "convert": ("I2F", "I2FP", "F2F", "F2I"),
        "memory": ("LDG", "STG", "LDS", "STS"),
    }
    counts: Counter[str] = Counter(total=len(code))
    for instruction in code:
        for unit, prefixes in units.items():
            counts[unit] += any(instruction.opcode.startswith(p) for p in prefixes)
    return counts


def read_kernels(cuobjdump: str, compiled: Path, architecture: str) -> list[Kernel]:
    def run(*options: str) -> str:
        command = [cuobjdump, "-arch", f"sm_{architecture}", *options, str(compiled)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", run("--dump-resource-usage"))
    code: dict[str, list[Instruction]] = {}
    for line in run("-sass").splitlines():
        if header := re.search(r"Function : (\S+)", line):
            code[header[1]] = current = []
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", line):
            target = re.search(r"\b0x([0-9a-f]+)\s*$", match[3]) if match[2].startswith("BRA") else None
            current.append(Instruction(int(match[1], 16), match[2], int(target[1], 16) if target else None))
    names = demangle([name for name, *_ in usage])
    return [
        Kernel(names[name], int(registers), int(stack), int(shared), tuple(code[name]))
        for name, registers, stack, shared in usage
    ]


def demangle(names: list[str]) -> dict[str, str]:
    filt = shutil.which("c++filt")
    assert filt is not None, "c++filt (binutils) is needed to read kernel names"
    text = subprocess.run([filt, *names], check=True, capture_output=True, text=True).stdout
    short = (re.sub(r"dvae::|void |\(.*", "", line) for line in text.splitlines())
    return dict(zip(names, short))


Loop = list[Instruction]
Pipes = dict[str, float]  # instructions per element: in total and by pipe

ELEMENTS_PER_THREAD = 8  # of elementwise kernels
COLUMNS_PER_TURN = 8  # of the reading loops of rows: chunks in flight times columns per chunk
# What is computed in float has 16-byte accesses: one dtype, and the pairs of logits and samples.
VECTOR_DTYPES, VECTOR_PAIRS = len(FLOATS) - 1, len(PAIRS) - 1


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
    return wide_accesses(loop, "STG") * 16 // kernel.sizes[-1]  # the output is the last of the tensor types


@dataclass(frozen=True)
class Gates:
    """Of all instantiations of one kernel template."""

    registers: int
    loops: dict[str, Pipes] = field(default_factory=dict)  # by role: no kernel with 16-byte accesses may exceed them
    # the same for instantiations that have the word in their names
    instances: dict[str, dict[str, Pipes]] = field(default_factory=dict)
    code: Pipes = field(default_factory=dict)  # of all code, per element of a thread; float kernels without loops
    vector: int = VECTOR_PAIRS  # instantiations with 16-byte accesses
    strided: int = 2  # those for any layout: the compute types, of which one is double
    registers_double: int = 128
    narrow_loads: int = 3  # of a kernel with 16-byte accesses: the key (one or two loads) and tau
    narrow_stores: int = 0
    wide_stores: bool = True  # False: an output per row
    any_layout: bool = False  # the budgets of loops hold without 16-byte accesses to global memory, too
    decides_in_double: bool = False  # also for float inputs
    role: Callable[[Loop], str | None] = row_role
    columns: Callable[[Kernel, Loop, str], int] = row_columns
