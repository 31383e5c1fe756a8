"""Kernels of vector_quantize compiled ahead of time: what the machine code must and must not contain."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

from kit.aot import Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

# Rows and columns: one tile of columns, a loop over them.
_SHAPES = {"d64": (65536, 64), "d2048": (4096, 2048)}
_CASES = [
    *(Case(90, torch.float32, name, shape) for name, shape in _SHAPES.items()),
    *(Case(arch, dtype, "d64", _SHAPES["d64"])
      for arch, dtype in ((90, torch.bfloat16), (80, torch.float32), (100, torch.float32))),
]  # fmt: skip
# By launch, per element of a tile: its kernel, and the budget for one tile of columns and for a loop, which is unrolled
# four times. The second write of a quantized row is of NaN, and hardly ever happens. The rotation reads its rows three
# times, of which one is the same load again.
_BUDGETS = {
    "forward": ("vector_quantize_fwd", Budget(42, 0, 3.6, 2, 0, 2, 2), Budget(85, 0, 2.2, 0.9, 0, 8, 8)),
    "straight through": ("vector_quantize_bwd", Budget(26, 0, 4.7, 2.5, 0, 3, 1), Budget(45, 0, 3.3, 1.1, 0, 12, 4)),
    "rotation": (
        "vector_quantize_bwd",
        Budget(77, 1.5, 5.2, 3.1, 0, 6, None),
        Budget(167, 1.5, 3.6, 3.6, 0, None, None),
    ),
}
_CEILING = Ceiling(64, 4096)


def launch_all(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Forward, backward straight through, and by rotation with the gradient to the codes."""
    from dvae_kernels.ops.vector_quantize import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    indices = torch.empty(shape[0], dtype=torch.int64, device="meta")
    losses = torch.empty(shape[0], device="meta")
    ops.vector_quantize_fwd(x, x[:1024], indices, False)
    ops.vector_quantize_bwd(x, losses, x, x, indices, 0.25, 0.0, False, False)
    ops.vector_quantize_bwd(x, losses, x, x, indices, 0.25, 1.0, True, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    return submit(request, compilers, "dvae_kernels.ops.vector_quantize.triton_kernels", launch_all, _CASES)


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_machine_code(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    binaries = compiled[case].result()
    assert len(binaries) == len(_BUDGETS)
    for binary, (kernel, whole, looped) in zip(binaries, _BUDGETS.values()):
        assert binary.kernel == f"_{kernel}_kernel"
        check(binary, case, looped if case.name == "d2048" else whole, _CEILING)
