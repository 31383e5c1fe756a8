"""Every CUDA kernel compiles for every architecture without a warning, and its machine code keeps what its
op's gates.py promises."""

from __future__ import annotations

import importlib
from functools import cache

import pytest

from kit.nvcc import (
    ARCHITECTURES,
    ELEMENTS_PER_THREAD,
    ROOT,
    Gates,
    Kernel,
    Pipes,
    compile_cuda,
    find_tool,
    pipes,
    read_kernels,
    wide_accesses,
)

pytestmark = [pytest.mark.aot, pytest.mark.slow]

FOLDERS = sorted(source.parent.name for source in (ROOT / "csrc").glob("*/cuda.cu"))
RESERVED_SHARED = 1024  # the driver's own; ours is dynamic


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ARCHITECTURES, ids=lambda a: f"sm_{a}")
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gates(folder: str) -> dict[str, Gates]:
    """By the name of the kernel template, without its _kernel."""
    kernels: dict[str, Gates] = importlib.import_module(f"ops.{folder}.gates").KERNELS
    return kernels


@pytest.fixture
def kernels(folder: str, architecture: str) -> list[Kernel]:
    nvcc, cuobjdump = find_tool("nvcc"), find_tool("cuobjdump")
    if nvcc is None:
        pytest.skip("nvcc was not found on PATH, under CUDA_HOME or in /usr/local/cuda")
    if cuobjdump is None:
        pytest.skip("cuobjdump was not found beside nvcc, nor inside triton")
    return compiled(nvcc, cuobjdump, folder, architecture)


@cache
def compiled(nvcc: str, cuobjdump: str, folder: str, architecture: str) -> list[Kernel]:
    return read_kernels(cuobjdump, compile_cuda(nvcc, ROOT / "csrc" / folder / "cuda.cu"), architecture)


def template(kernel: Kernel) -> str:
    return kernel.name.split("_kernel")[0]


def test_every_kernel_is_there(kernels: list[Kernel], gates: dict[str, Gates]) -> None:
    """Every template in 16-byte vectors and in any layout."""
    assert {template(k) for k in kernels} == set(gates)
    for name, gate in gates.items():
        ours = {k.name: k for k in kernels if template(k) == name}.values()
        assert sum(k.vector for k in ours) == gate.vector, name
        assert sum(not k.vector for k in ours) == gate.strided, name


def test_resources(kernels: list[Kernel], gates: dict[str, Gates]) -> None:
    for kernel in kernels:
        gate = gates[template(kernel)]
        limit = gate.registers_double if kernel.double else gate.registers
        assert kernel.registers <= limit, f"{kernel.name}: {kernel.registers} registers"
        assert kernel.stack == 0, f"{kernel.name}: {kernel.stack} bytes of stack"
        assert kernel.shared <= RESERVED_SHARED, f"{kernel.name}: {kernel.shared} bytes of static shared memory"
        assert kernel.count("STL", "LDL") == 0, f"{kernel.name}: local memory"


def test_no_double_arithmetic_and_no_routines_in_float_kernels(
    kernels: list[Kernel], gates: dict[str, Gates], architecture: str
) -> None:
    for kernel in kernels:
        if kernel.double or gates[template(kernel)].decides_in_double:
            continue
        assert kernel.count("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") == 0, f"{kernel.name}: double arithmetic"
        assert not any("F64" in i.opcode for i in kernel.code), f"{kernel.name}: double conversions"
        # sm_80 converges warps by a call of the next instruction, which returns nowhere
        assert kernel.count("RET") == 0, f"{kernel.name}: a routine"
        assert kernel.count("CALL") == 0 or architecture == "80", f"{kernel.name}: a call"


@pytest.mark.parametrize("folder", ["gumbel_softmax"], indirect=True)
def test_double_arithmetic_is_seen(kernels: list[Kernel]) -> None:
    assert all(kernel.count("DFMA") for kernel in kernels if kernel.double)


def test_vector_kernels_use_16_byte_accesses(kernels: list[Kernel], gates: dict[str, Gates]) -> None:
    for kernel in kernels:
        if not kernel.vector:
            continue
        gate, code = gates[template(kernel)], list(kernel.code)
        narrow = {
            base: [i.opcode for i in code if i.base == base and ".128" not in i.opcode] for base in ("LDG", "STG")
        }
        assert len(narrow["LDG"]) <= gate.narrow_loads, f"{kernel.name}: {narrow['LDG']}"
        assert len(narrow["STG"]) <= gate.narrow_stores, f"{kernel.name}: {narrow['STG']}"
        assert wide_accesses(code, "LDG"), kernel.name
        assert bool(wide_accesses(code, "STG")) == gate.wide_stores, kernel.name


def test_instruction_budgets_of_code_without_loops(kernels: list[Kernel], gates: dict[str, Gates]) -> None:
    for kernel in kernels:
        if kernel.double:
            continue
        for pipe, limit in gates[template(kernel)].code.items():
            value = pipes(list(kernel.code)).get(pipe, 0) / ELEMENTS_PER_THREAD
            assert value <= limit, f"{kernel.name}: {value:.2f} {pipe} per element, budget {limit}"


def test_instruction_budgets(kernels: list[Kernel], gates: dict[str, Gates]) -> None:
    met: set[tuple[str, str]] = set()
    over = []
    for kernel in kernels:
        gate = gates[template(kernel)]
        if not kernel.vector and not gate.any_layout:
            continue
        found: dict[str, Pipes] = {}
        for loop in kernel.loops():
            role = gate.role(loop)
            if role is None:
                continue
            columns = gate.columns(kernel, loop, role)
            per_element = {pipe: n / columns for pipe, n in pipes(loop).items()}
            if role not in found or per_element["total"] < found[role]["total"]:
                found[role] = per_element
        assert found.keys() == gate.loops.keys(), f"{kernel.name}: loops {sorted(found)}"
        ours = [loops for word, loops in gate.instances.items() if word in kernel.name]
        met |= {(template(kernel), word) for word in gate.instances if word in kernel.name}
        for role, budget in [item for loops in (gate.loops, *ours) for item in loops.items()]:
            for pipe, limit in budget.items():
                value = found[role].get(pipe, 0)
                if value > limit:
                    over.append(f"{kernel.name}, {role}: {value:.2f} {pipe} per element, budget {limit}")
    assert not over, "\n".join(over)
    assert met == {(name, word) for name, gate in gates.items() for word in gate.instances}, "a budget without a kernel"
