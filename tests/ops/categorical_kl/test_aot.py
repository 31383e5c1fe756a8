"""Kernels of the categorical divergence compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import ROW_CASES, Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# By kernel (with a prior: _prior): of rows held on chip, of strided ones, and of rows in a loop. What backward reads
# once a row is a wide read too where rows are strided.
_BUDGETS = {
    "kl_fwd": (
        Budget(31, 1.2, 0.1, 0.1, 0, 1, 0), Budget(41, 1.7, 0.5, 0.15, 0, 1, 0), Budget(43, 2.5, 0.4, 0.3, 0, 2, 0),
    ),
    "kl_fwd_prior": (
        Budget(42, 2.2, 0.3, 0.25, 0, 2, 0), Budget(60, 3.1, 0.7, 0.2, 0, 2, 0), Budget(62, 4.6, 0.6, 0.5, 0, 4, 0),
    ),
    "kl_bwd": (
        Budget(22, 1.1, 0.3, 0.25, 0, 1, 1), Budget(34, 1.4, 1, 0.2, 0, None, 1), Budget(37, 2.2, 0.7, 0.5, 0, 2, 1),
    ),
    "kl_bwd_prior": (
        Budget(36, 2.2, 0.6, 0.5, 0, 2, 2), Budget(55, 2.6, 1.2, 0.25, 0, None, 2), Budget(60, 4.4, 1, 0.75, 0, 4, 2),
    ),
}  # fmt: skip
# Registers and shared memory: on chip or strided, and in a loop.
_CEILINGS = {
    "kl_fwd": (Ceiling(128, 512), Ceiling(64, 64)),
    "kl_fwd_prior": (Ceiling(160, 512), Ceiling(64, 64)),
    "kl_bwd": (Ceiling(128, 512), Ceiling(64, 64)),
    "kl_bwd_prior": (Ceiling(188, 512), Ceiling(96, 64)),
}


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every kernel without a prior and with one that learns."""
    from dvae_kernels.ops.categorical_kl import triton_kernels as ops

    x, prior = (torch.empty(shape, dtype=dtype, device="meta") for _ in range(2))
    grad = torch.empty((shape[0], *shape[2:]), dtype=torch.float32, device="meta")
    ops.categorical_kl_fwd(x, None, 1)
    ops.categorical_kl_fwd(x, prior, 1)
    ops.categorical_kl_bwd(grad, x, None, 1, False)
    ops.categorical_kl_bwd(grad, x, prior, 1, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels._triton.rows", launch_all, ROW_CASES)


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    for name, binary in zip(_BUDGETS, compiled[case].result(), strict=True):
        assert name.removesuffix("_prior") in binary.kernel
        looped, strided = binary.tiles > 1, len(case.shape) > 2
        check(binary, case, _BUDGETS[name][2 if looped else strided], _CEILINGS[name][looped])
