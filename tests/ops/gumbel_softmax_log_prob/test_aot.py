"""Kernels of the concrete density compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import ROW_CASES, Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# By kernel: of rows held on chip, of strided ones, and of rows in a loop. What backward reads once a row is a wide read
# too where rows are strided.
_BUDGETS = {
    "log_prob_fwd": (
        Budget(30, 2.2, 2.1, 0.3, 0, 2, 0), Budget(44, 2.6, 1.6, 0.25, 0, 2, 0), Budget(38, 2.3, 2.4, 0.3, 0, 2, 0),
    ),
    "log_prob_bwd": (
        Budget(57, 3.2, 2.6, 0.5, 0, 2, 2), Budget(75, 3.4, 2.8, 0.25, 0, None, 2), Budget(79, 5.5, 3.1, 0.75, 0, 4, 2),
    ),
}  # fmt: skip
# Registers and shared memory: on chip or strided, and in a loop.
_CEILINGS = {
    "log_prob_fwd": (Ceiling(168, 512), Ceiling(96, 64)),
    "log_prob_bwd": (Ceiling(240, 512), Ceiling(104, 64)),
}


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every kernel once, with a tau that learns."""
    from dvae_kernels.ops.gumbel_softmax_log_prob import triton_kernels as ops

    x, y = (torch.empty(shape, dtype=dtype, device="meta") for _ in range(2))
    grad = torch.empty((shape[0], *shape[2:]), dtype=torch.float32, device="meta")
    tau = torch.empty((), dtype=torch.float32, device="meta")
    ops.gumbel_softmax_log_prob_fwd(y, x, tau, 0.0, 1)
    ops.gumbel_softmax_log_prob_bwd(grad, y, x, tau, 0.0, 1, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels._triton.rows", launch_all, ROW_CASES)


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    for name, binary in zip(_BUDGETS, compiled[case].result(), strict=True):
        assert name in binary.kernel
        looped, strided = binary.tiles > 1, len(case.shape) > 2
        check(binary, case, _BUDGETS[name][2 if looped else strided], _CEILINGS[name][looped])
