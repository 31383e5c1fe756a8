"""Gumbel-softmax kernels compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

_KERNELS = ("fwd", "bwd", "recompute_bwd")

# One shape for every row of the configuration table, the categories along dimension 1.
_CONTIGUOUS = {"k16": (65536, 16), "k4096": (4096, 4096), "k8192": (4096, 8192), "k16384": (4096, 16384),
               "k262144": (1024, 262144)}  # fmt: skip
_STRIDED = {"k64s": (64, 64, 32, 32), "k512s": (64, 512, 32, 32), "k1024s": (64, 1024, 32, 32),
            "k8192s": (8, 8192, 32, 32)}  # fmt: skip
# Other variants of the same code: rows that are not aligned, and offsets beyond 32 bits.
_VARIANTS = {"k1001": (4096, 1001), "k8192-int64": (1 << 20, 8192), "k512s-int64": (4096, 512, 32, 64)}
_SHAPES = _CONTIGUOUS | _STRIDED | _VARIANTS
_ELSEWHERE = ("k8192", "k262144", "k512s", "k8192s")  # compiled for the other architectures too


_CASES = [
    *(Case(90, torch.float32, name, shape, aligned=name != "k1001") for name, shape in _SHAPES.items()),
    *(Case(90, torch.bfloat16, name, shape) for name, shape in (_CONTIGUOUS | _STRIDED).items()),
    *(Case(arch, torch.float32, name, _SHAPES[name]) for arch in (80, 100) for name in _ELSEWHERE),
]

# By kernel and whether it loops over tiles. The forward holds the soft and the one-hot path, of which one runs.
_BUDGETS = {
    ("fwd", False): Budget(64, 3.4, 6.2, 5.2, 1, 1, 1),
    ("fwd", True): Budget(134, 8.6, 15.6, 13.9, 3, 3, 2),
    ("bwd", False): Budget(25, 0.35, 2, 1, 0, 2, 1),
    ("bwd", True): Budget(32, 0.35, 4.2, 0.7, 0, 4, 1),
    ("recompute_bwd", False): Budget(73, 3.4, 6.4, 5.4, 1, 2, 1),
    ("recompute_bwd", True): Budget(105, 6.7, 10.2, 9.4, 2, 4, 1),
}
# By kernel and whether the categories are strided.
_CEILINGS = {
    ("fwd", False): Ceiling(100, 16384), ("fwd", True): Ceiling(176, 16384),
    ("bwd", False): Ceiling(100, 512), ("bwd", True): Ceiling(112, 1024),
    ("recompute_bwd", False): Ceiling(128, 16384), ("recompute_bwd", True): Ceiling(224, 16384),
}  # fmt: skip


# The index without the sample: one walk, with the one-hot path alone, and eight bytes a row.
_INDEX_CASES = [Case(90, torch.float32, name, _SHAPES[name]) for name in ("k8192", "k262144", "k512s")]
_INDEX_BUDGETS = {False: Budget(41, 2.1, 5.3, 4.7, 1, 1, None), True: Budget(45, 2.1, 5.9, 4.7, 1, 1, None)}


def launch_index(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    from dvae_kernels.ops.gumbel_softmax import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    ops.gumbel_argmax(x, torch.empty(2, dtype=torch.int64, device="meta"), 1, 0)


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
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels._triton.rows", launch_all, _CASES)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    assert [b.kernel for b in binaries] == [f"_gumbel_softmax_{name}_kernel" for name in _KERNELS]
    strided = len(case.shape) > 2
    for name, binary in zip(_KERNELS, binaries):
        check(binary, case, _BUDGETS[name, binary.tiles > 1], _CEILINGS[name, strided])


@pytest.fixture(scope="module")
def compiled_index(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    module = "dvae_kernels._triton.rows"
    return submit(request, compilers, module, launch_index, _INDEX_CASES)


@pytest.mark.parametrize("case", _INDEX_CASES, ids=str)
def test_machine_code_of_the_index(case: Case, compiled_index: dict[Case, Future[list[Binary]]]) -> None:
    (binary,) = compiled_index[case].result()
    check(binary, case, _INDEX_BUDGETS[binary.tiles > 1], _CEILINGS["fwd", len(case.shape) > 2])
    assert binary.per_element("STG") <= 1 / 4  # no sample is written


# Few wide rows: what reads the parts, and what writes them, of the sample, of its index and of the gradient. The
# writing forward scales or marks, and marks two tiles at a time where a part has several.
_SPLIT_CASES = [
    Case(90, dtype, name, shape)
    for name, shape in (("1xk131072", (1, 131072)), ("8xk262144", (8, 262144)))
    for dtype in (torch.float32, torch.bfloat16)
]
_SPLIT_BUDGETS = {
    ("fwd", "read"): Budget(90, 5.4, 10.8, 9.8, 2, 2, 0),
    ("fwd", "write"): Budget(60, 3.4, 7.5, 5, 1, 1, None),
    ("index", "read"): Budget(47, 2.1, 6.5, 5, 1, 1, 0),
    ("index", "write"): Budget(4, 0, 0.5, 0.4, 0, 0, 0),
    ("recompute_bwd", "read"): Budget(54, 3.3, 5.2, 4.8, 1, 2, 0),
    ("recompute_bwd", "write"): Budget(60, 3.4, 5.3, 4.9, 1, 2, 1),
}


def launch_split(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    from dvae_kernels.ops.gumbel_softmax import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    key = torch.empty(2, dtype=torch.int64, device="meta")
    tau = torch.empty((), dtype=torch.float32, device="meta")
    ops.gumbel_softmax_fwd(x, key, tau, 0.0, 1, False, 0, dtype)
    ops.gumbel_argmax(x, key, 1, 0)
    ops.gumbel_softmax_recompute_bwd(x, x, key, tau, 0.0, 1, 0, True)


@pytest.fixture(scope="module")
def compiled_split(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    module = "dvae_kernels._triton.rows"
    return submit(request, compilers, module, launch_split, _SPLIT_CASES)


@pytest.mark.parametrize("case", _SPLIT_CASES, ids=str)
def test_machine_code_of_split_rows(case: Case, compiled_split: dict[Case, Future[list[Binary]]]) -> None:
    for what, binary in zip(_SPLIT_BUDGETS, compiled_split[case].result(), strict=True):
        check(binary, case, _SPLIT_BUDGETS[what], Ceiling(96, 16384))
