"""Binary concrete kernels compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

_EVEN, _ODD = (4096, 8192), (4097, 33)
_CASES = [
    *(Case(90, dtype, "even", _EVEN) for dtype in (torch.float32, torch.bfloat16)),
    Case(90, torch.float32, "int64", (1 << 19, 8192)),
    # whole tiles in 16-byte pieces, and the last one element by element
    Case(90, torch.float32, "odd", _ODD),
    *(Case(arch, torch.float32, "even", _EVEN) for arch in (80, 100)),
]
# By kernel and whether the elements are a multiple of 16; else the code reads and writes both ways. The forward holds
# the relaxed and the hard sample, of which one runs. The log density's output and gradient are float32.
_BUDGETS = {
    ("fwd", True): Budget(47, 4.1, 6, 5.2, 2, 1, 1),
    ("fwd", False): Budget(58, 4.1, 6, 5.5, 2, 1, 1),
    ("bwd", True): Budget(54, 4.1, 6, 5.7, 2, 2, 1),
    ("bwd", False): Budget(71, 4.1, 6, 5.5, 2, 2, 1),
    ("log_prob_fwd", True): Budget(32, 4.1, 1, 0.6, 0, 2, None),
    ("log_prob_fwd", False): Budget(45, 4.1, 2.5, 2.5, 0, 2, 1),
    ("log_prob_bwd", True): Budget(53, 5.1, 1.5, 1.5, 0, None, 2),
    ("log_prob_bwd", False): Budget(79, 5.1, 4, 4, 0, 3, 2),
}
_CEILINGS = {True: Ceiling(80, 4096), False: Ceiling(144, 4096)}


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every kernel once, with the gradient to the temperature."""
    from dvae_kernels.ops.binary_concrete import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    key = torch.empty(2, dtype=torch.int64, device="meta")
    tau = torch.empty((), dtype=torch.float32, device="meta")
    ops.binary_concrete_fwd(x, key, tau, 0.0, False, 0, dtype)
    ops.binary_concrete_bwd(x, x, key, tau, 0.0, 0, True)
    ops.binary_concrete_log_prob_fwd(x, x, tau, 0.0)
    ops.binary_concrete_log_prob_bwd(x.float(), x, x, tau, 0.0, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels._triton.elements", launch_all, _CASES)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    names = ("fwd", "bwd", "log_prob_fwd", "log_prob_bwd")
    assert [b.kernel for b in binaries] == [f"_binary_concrete_{name}_kernel" for name in names]
    for name, binary in zip(names, binaries):
        even = case.name != "odd"
        check(binary, case, _BUDGETS[name, even], _CEILINGS[even])
