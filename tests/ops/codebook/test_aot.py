"""Kernels of the codebook ops compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import Binary, Budget, Case, Ceiling, check, pinned, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# Rows and columns: one tile of columns, a loop over them, rows that are not aligned.
_SHAPES = {"d64": (65536, 64), "d1024": (65536, 1024), "d33": (65536, 33)}
_CASES = [
    *(Case(90, torch.float32, name, shape, aligned=name != "d33") for name, shape in _SHAPES.items()),
    *(Case(arch, dtype, "d64", _SHAPES["d64"])
      for arch, dtype in ((90, torch.bfloat16), (80, torch.float32), (100, torch.float32))),
]  # fmt: skip
_KERNELS = ("gather_codes", "finite_code_keys", "code_sums", "code_sums", "code_sums", "code_keys", "code_sums")
# By kernel and whether rows are aligned, per element of a tile. code_sums has four rows of it, and after each of them
# the end of a run, which most rows skip.
_BUDGETS = {
    ("gather_codes", True): Budget(10.5, 0, 2, 1.1, 0, 1, 1),
    ("gather_codes", False): Budget(33, 0, 5.6, 2.4, 0, None, None),
    ("finite_code_keys", True): Budget(15, 0, 0.9, 0.6, 0, 1, None),
    ("finite_code_keys", False): Budget(32, 0, 3.5, 1.1, 0, None, None),
    ("code_keys", True): Budget(11, 0, 0.4, 0.4, 0, None, None),
    ("code_keys", False): Budget(11, 0, 0.4, 0.4, 0, None, None),
    ("code_sums", True): Budget(113, 0, 18.5, 3.5, 0, None, None),
    ("code_sums", False): Budget(196, 0, 38, 7.5, 0, None, None),
}
_CEILINGS = {
    "gather_codes": Ceiling(40, 0),
    "finite_code_keys": Ceiling(40, 128),
    "code_keys": Ceiling(32, 0),
    "code_sums": Ceiling(128, 2048),
}


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """All ops once; 65536 rows make three levels of sums."""
    from dvae_kernels.ops.codebook import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    indices = torch.empty(shape[0], dtype=torch.int64, device="meta")
    ops.gather_codes(x, indices)
    ops.code_statistics(x, indices, 1024)
    ops.code_sums(x[:64], indices[:64], 1024)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels.ops.codebook.triton_kernels", launch_all, _CASES)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    assert [b.kernel for b in binaries] == [f"_{name}_kernel" for name in _KERNELS]
    for i, (name, binary) in enumerate(zip(_KERNELS, binaries)):
        check(binary, case, _BUDGETS[name, case.aligned], _CEILINGS[name])
        if name == "code_sums" and case.aligned and pinned():
            # four rows of a tile are on their way at a time; those of later levels are partial sums
            size = case.dtype.itemsize if i in (2, 6) else 4
            assert binary.wide_bytes("LDG") == 4 * binary.per_thread * size, f"{case}: {binary.opcodes}"
