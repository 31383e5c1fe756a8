"""Kernels of the categorical divergence and the concrete density compiled ahead of time: what the machine code must and
must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch
from compile import Binary
from gates import Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

_SHAPES = {"k8192": (4096, 8192), "k512s": (64, 512, 32, 32), "k262144": (64, 262144)}
_CASES = [
    *(Case(90, dtype, name, shape) for name, shape in _SHAPES.items() for dtype in (torch.float32, torch.bfloat16)),
    *(Case(arch, torch.float32, "k8192", _SHAPES["k8192"]) for arch in (80, 100)),
]

# By kernel (with a prior: _prior) and whether it loops over tiles.
_BUDGETS = {
    ("kl_fwd", False): Budget(0, 0, 0, 0, 0, 1, 0),
    ("kl_fwd", True): Budget(0, 0, 0, 0, 0, 2, 0),
    ("kl_fwd_prior", False): Budget(0, 0, 0, 0, 0, 2, 0),
    ("kl_fwd_prior", True): Budget(0, 0, 0, 0, 0, 4, 0),
    ("kl_bwd", False): Budget(0, 0, 0, 0, 0, 1, 1),
    ("kl_bwd", True): Budget(0, 0, 0, 0, 0, 2, 1),
    ("kl_bwd_prior", False): Budget(0, 0, 0, 0, 0, 2, 2),
    ("kl_bwd_prior", True): Budget(0, 0, 0, 0, 0, 4, 2),
    ("log_prob_fwd", False): Budget(0, 0, 0, 0, 0, 2, 0),
    ("log_prob_fwd", True): Budget(0, 0, 0, 0, 0, 2, 0),
    ("log_prob_bwd", False): Budget(0, 0, 0, 0, 0, 2, 2),
    ("log_prob_bwd", True): Budget(0, 0, 0, 0, 0, 4, 2),
}
_NAMES = ("kl_fwd", "kl_fwd_prior", "kl_bwd", "kl_bwd_prior", "log_prob_fwd", "log_prob_bwd")
_CEILINGS = {False: Ceiling(255, 65536), True: Ceiling(255, 65536)}


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every kernel once, the divergence also with a prior that learns, the density with a tau that learns."""
    from dvae_kernels.ops.categorical import triton_kernels as ops

    x, y, prior = (torch.empty(shape, dtype=dtype, device="meta") for _ in range(3))
    grad = torch.empty((shape[0], *shape[2:]), dtype=torch.float32, device="meta")
    tau = torch.empty((), dtype=torch.float32, device="meta")
    ops.categorical_kl_fwd(x, None, 1)
    ops.categorical_kl_fwd(x, prior, 1)
    ops.categorical_kl_bwd(grad, x, None, 1, False)
    ops.categorical_kl_bwd(grad, x, prior, 1, True)
    ops.gumbel_softmax_log_prob_fwd(y, x, tau, 0.0, 1)
    ops.gumbel_softmax_log_prob_bwd(grad, y, x, tau, 0.0, 1, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels.ops.categorical.triton_kernels", launch_all, _CASES)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    strided = len(case.shape) > 2
    for name, binary in zip(_NAMES, binaries, strict=True):
        assert binary.kernel.removesuffix("_kernel").endswith(name.removesuffix("_prior"))
        check(binary, case, _BUDGETS[name, binary.tiles > 1], _CEILINGS[strided])
