"""Every CUDA kernel compiles for every architecture without a warning, and its machine code keeps what it promises."""

from __future__ import annotations

import re

import pytest
from sass import ARCHITECTURES, ROOT, Instruction, Kernel, compile_cuda, find_tool, pipes, read_kernels

pytestmark = [pytest.mark.aot, pytest.mark.slow]

STORAGES = ("float", "Half", "BFloat16")
# Two blocks of 512 threads fit at 64 registers; recomputing rows are bound by shared memory before that.
REGISTERS = {"fwd": 64, "bwd": 64, "recompute_bwd": 96}
REGISTERS_DOUBLE = 128
RESERVED_SHARED = 1024  # the driver's own; ours is dynamic

# Instructions per element of the loops over a row, by pipe; no kernel with 16-byte accesses may exceed them.
# draw: read, make noise, reduce, cache. pick: the same for a one-hot sample. write: from the cache. mark: one-hot,
# or zeros where tau = 0.
BUDGETS = {
    ("fwd", "draw"): {"total": 43, "mufu": 3.25, "wide": 5, "convert": 1, "memory": 0.5},
    ("fwd", "pick"): {"total": 41, "mufu": 2, "wide": 5, "convert": 1, "memory": 0.25},
    ("fwd", "write"): {"total": 7.5, "mufu": 1, "wide": 0.25, "convert": 0.5, "memory": 0.5},
    ("fwd", "mark"): {"total": 6, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.25},
    ("bwd", "read"): {"total": 10.5, "mufu": 0, "wide": 0.5, "convert": 0, "memory": 1},
    ("bwd", "write"): {"total": 7, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.75},
    ("bwd", "mark"): {"total": 6, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.25},
    ("recompute_bwd", "draw"): {"total": 48.5, "mufu": 3.25, "wide": 5.25, "convert": 1, "memory": 1},
    # holds the body twice: with and without the gradient of tau
    ("recompute_bwd", "write"): {"total": 21.5, "mufu": 2, "wide": 0.25, "convert": 0.5, "memory": 0.75},
    ("recompute_bwd", "mark"): {"total": 6, "mufu": 0, "wide": 0.25, "convert": 0.5, "memory": 0.25},
}
COLUMNS_PER_TURN = 8  # of the reading loops: chunks in flight times columns per chunk


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda a: f"sm_{a}")
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kernels(architecture: str) -> list[Kernel]:
    nvcc, cuobjdump = find_tool("nvcc"), find_tool("cuobjdump")
    if nvcc is None:
        pytest.skip("nvcc was not found on PATH, under CUDA_HOME or in /usr/local/cuda")
    if cuobjdump is None:
        pytest.skip("cuobjdump was not found beside nvcc, nor inside triton")
    return read_kernels(cuobjdump, compile_cuda(nvcc, ROOT / "csrc" / "gumbel_softmax" / "cuda.cu"), architecture)


def operation(kernel: Kernel) -> str:
    return kernel.name.split("_kernel")[0].removeprefix("gumbel_softmax_")


def test_every_kernel_is_there(kernels: list[Kernel]) -> None:
    """Three ops, each for five pairs of dtypes in 16-byte vectors and two compute types in any layout."""
    names = {k.name for k in kernels}
    assert len(names) == 3 * (5 + 2)
    for op in REGISTERS:
        assert sum(operation(k) == op and k.vector for k in kernels) == 5
        assert sum(operation(k) == op and k.double for k in kernels) == 1


def test_resources(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        limit = REGISTERS_DOUBLE if kernel.double else REGISTERS[operation(kernel)]
        assert kernel.registers <= limit, f"{kernel.name}: {kernel.registers} registers"
        assert kernel.stack == 0, f"{kernel.name}: {kernel.stack} bytes of stack"
        assert kernel.shared <= RESERVED_SHARED, f"{kernel.name}: {kernel.shared} bytes of static shared memory"
        assert kernel.count("STL", "LDL") == 0, f"{kernel.name}: local memory"


def test_no_double_arithmetic_and_no_routines_in_float_kernels(kernels: list[Kernel], architecture: str) -> None:
    for kernel in kernels:
        if kernel.double:
            assert kernel.count("DFMA"), "the reader misses double arithmetic"
            continue
        assert kernel.count("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") == 0, f"{kernel.name}: double arithmetic"
        assert not any("F64" in i.opcode for i in kernel.code), f"{kernel.name}: double conversions"
        # sm_80 converges warps by a call of the next instruction, which returns nowhere
        assert kernel.count("RET") == 0, f"{kernel.name}: a routine"
        assert kernel.count("CALL") == 0 or architecture == "80", f"{kernel.name}: a call"


def wide_accesses(code: list[Instruction], base: str) -> int:
    return sum(i.base == base and ".128" in i.opcode for i in code)


def role(loop: list[Instruction]) -> str | None:
    """What a loop over a row does; None for reductions and for the part of a row that does not fit on chip."""
    loads, stores = wide_accesses(loop, "LDG"), wide_accesses(loop, "STG")
    if loads and not stores:
        noise = any(i.opcode == "MUFU.LG2" for i in loop)
        return "read" if not noise else "draw" if wide_accesses(loop, "STS") else "pick"
    if stores and not loads:
        return "write" if wide_accesses(loop, "LDS") else "mark"
    return None


def test_vector_kernels_use_16_byte_accesses(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        if not kernel.vector:
            continue
        code = list(kernel.code)
        narrow = [i.opcode for i in code if i.base == "STG" and ".128" not in i.opcode]
        # the rows' parts of the gradient to tau, and their zeros where tau = 0
        assert len(narrow) <= (2 if operation(kernel) == "recompute_bwd" else 0), f"{kernel.name}: {narrow}"
        assert wide_accesses(code, "STG") and wide_accesses(code, "LDG")
        # the key (one or two loads) and tau
        assert sum(i.base == "LDG" and ".128" not in i.opcode for i in code) <= 3, f"{kernel.name}: narrow loads"


def output_size(kernel: Kernel) -> int:
    """Bytes per element of the output, the last of the kernel's tensor types."""
    storages = re.findall("|".join(STORAGES), kernel.name)
    return 4 if storages[-1] == "float" else 2


def test_instruction_budgets(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        if not kernel.vector:
            continue
        found = {}
        for loop in kernel.loops():
            name = role(loop)
            if name is None:
                continue
            written = wide_accesses(loop, "STG") * 16 // output_size(kernel)
            columns = COLUMNS_PER_TURN if name in ("draw", "pick", "read") else written
            per_element = {pipe: n / columns for pipe, n in pipes(loop).items()}
            if name not in found or per_element["total"] < found[name]["total"]:
                found[name] = per_element
        budgets = {name: budget for (op, name), budget in BUDGETS.items() if op == operation(kernel)}
        assert found.keys() == budgets.keys(), f"{kernel.name}: loops {sorted(found)}"
        for name, budget in budgets.items():
            for pipe, limit in budget.items():
                value = found[name][pipe]
                assert value <= limit, f"{kernel.name}, {name}: {value:.2f} {pipe} per element, budget {limit}"
