"""The kernels of ReinMax and Gumbel-Rao compiled ahead of time."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import ROW_CASES, Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

_KERNELS = ("reinmax", "gumbel_rao")

# By kernel and whether it loops over tiles; the loop over draws once.
_BUDGETS = {
    ("reinmax", False): Budget(56, 2.6, 1.4, 0.5, 0, 2, 1),
    ("reinmax", True): Budget(57, 4.5, 1.4, 0.9, 0, 4, 1),
    ("gumbel_rao", False): Budget(105, 6, 6, 5.4, 1, 2, 1),
    ("gumbel_rao", True): Budget(190, 10.2, 12, 10, 2, 5, 1),
}
# By kernel and whether the categories are strided.
_CEILINGS = {
    ("reinmax", False): Ceiling(128, 16384), ("reinmax", True): Ceiling(184, 1024),
    ("gumbel_rao", False): Ceiling(128, 16384), ("gumbel_rao", True): Ceiling(128, 16384),
}  # fmt: skip


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every kernel of the op once, Gumbel-Rao with several draws."""
    from dvae_kernels.ops.hard_estimators import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    key = torch.empty(2, dtype=torch.int64, device="meta")
    index = torch.empty((shape[0], *shape[2:]), dtype=torch.int64, device="meta")
    tau = torch.empty((), dtype=torch.float32, device="meta")
    ops.reinmax_bwd(x, x, index, tau, 0.0, 1)
    ops.gumbel_rao_bwd(x, x, key, index, tau, 0.0, 1, 4, 0)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels._triton.rows", launch_all, ROW_CASES)


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    assert [b.kernel for b in binaries] == [f"_{name}_bwd_kernel" for name in _KERNELS]
    strided = len(case.shape) > 2
    for name, binary in zip(_KERNELS, binaries):
        budget = _BUDGETS[name, binary.tiles > 1]
        if strided:  # where the indices of neighbouring rows come in 16-byte pieces too
            budget = budget._replace(reads=None)
            if name == "gumbel_rao" and case.dtype.itemsize == 2:  # 16 rows fill a sector, not 16 bytes of a thread
                budget = budget._replace(writes=None)
        check(binary, case, budget, _CEILINGS[name, strided])
