"""Smoothing kernels compiled ahead of time: what the machine code must and must not contain, for every kind."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial

import pytest
import torch

from dvae_kernels import SMOOTHING_KINDS
from kit.aot import Binary, Budget, Case, Ceiling, check, submit

pytest.importorskip("triton")
pytestmark = pytest.mark.aot

_EVEN, _ODD, _INT64 = (4096, 8192), (4097, 33), (1 << 19, 8192)
_NAMES = ("fwd", "bwd", "log_prob_fwd", "log_prob_bwd")
# By kind and kernel, with one beta and noise made inside: all instructions and MUFU per element, registers.
_COUNTS = {
    "spike_exponential": ((66, 1.2, 72), (99, 3.2, 120), (53, 0.2, 64), (55, 1.2, 120)),
    "spike_power": ((70, 2.1, 72), (76, 3.1, 104), (65, 1.2, 80), (71, 3.2, 120)),
    "spike_root": ((62, 2.2, 64), (86, 5.2, 88), (64, 1.2, 80), (67, 3.2, 104)),
    "spike_rational": ((50, 1.1, 64), (64, 2.1, 80), (54, 1.2, 64), (57, 2.2, 104)),
    "power": ((72, 4.1, 64), (81, 4.1, 80), (61, 3.2, 72), (84, 4.2, 136)),
    "root": ((79, 4.2, 64), (100, 6.2, 80), (62, 3.2, 72), (86, 4.2, 120)),
    "exponential_mixture": ((88, 5.2, 80), (138, 9.2, 160), (70, 1.2, 72), (66, 3.2, 104)),
    "logistic_mixture": ((68, 4.2, 72), (99, 7.2, 88), (99, 3.2, 88), (108, 7.2, 168)),
    "power_mixture": ((78, 3.1, 80), (124, 7.2, 112), (94, 3.2, 80), (95, 7.2, 104)),
}
# The same with noise and beta of every element; what depends on beta alone is then made for each.
_FULL = {
    "power": ((70, 4.1, 64), (86, 5.1, 96), (109, 5.1, 168)),
    "exponential_mixture": ((120, 6.1, 80), (189, 11.1, 160), (126, 5.1, 160)),
}
# The name of a case is that of its kind, with what it has besides.
_EVERY_KIND = [Case(90, torch.float32, kind, _EVEN) for kind in SMOOTHING_KINDS]
_HALVES = [Case(90, torch.bfloat16, "exponential_mixture", _EVEN)]
_HALVES += [Case(arch, torch.bfloat16, "power", _EVEN) for arch in (90, 80, 100)]
_FULL_CASES = [Case(90, torch.float32, f"{kind} full", _EVEN) for kind in _FULL]
_SHAPES = [Case(90, torch.float32, "power odd", _ODD), Case(90, torch.float32, "power int64", _INT64)]


def launch(kind: str, density: bool, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The kernels of a kind, with the gradient to a beta that is one number."""
    from dvae_kernels.ops.smoothing import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    key = torch.empty(2, dtype=torch.int64, device="meta")
    beta = torch.empty((), dtype=torch.float32, device="meta")
    ops.smoothing_fwd(x, None, key, beta, 0.0, kind, 0, dtype)
    ops.smoothing_bwd(x, x, None, key, beta, 0.0, kind, 0, True, False)
    if density:
        ops.smoothing_log_prob_fwd(x, x, beta, 0.0, kind)
        ops.smoothing_log_prob_bwd(x.float(), x, x, beta, 0.0, kind, True)


def launch_full(kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """With noise and beta of every element, and the gradients to both."""
    from dvae_kernels.ops.smoothing import triton_kernels as ops

    x = torch.empty(shape, dtype=dtype, device="meta")
    full = x.float()
    ops.smoothing_fwd(x, full, None, full, 0.0, kind, 0, dtype)
    ops.smoothing_bwd(x, x, full, None, full, 0.0, kind, 0, True, True)
    ops.smoothing_log_prob_bwd(full, x, x, full, 0.0, kind, True)


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest, compilers: ProcessPoolExecutor) -> dict[Case, Future[list[Binary]]]:
    futures = {}
    for case in _EVERY_KIND + _HALVES + _FULL_CASES + _SHAPES:
        kind, _, form = case.name.partition(" ")
        launches = partial(launch_full, kind) if form == "full" else partial(launch, kind, case in _EVERY_KIND)
        futures |= submit(request, compilers, "dvae_kernels._triton.elements", launches, [case])
    return futures


def check_all(
    binaries: list[Binary],
    case: Case,
    counts: tuple[tuple[float, float, int], ...],
    names: tuple[str, ...],
    full: bool = False,
    more: float = 0.0,
) -> None:
    """`full`: noise and beta are read too. more: instructions beside the counts."""
    assert [b.kernel for b in binaries] == [f"_smoothing_{name}_kernel" for name in names]
    traffic = {"fwd": (1, 1), "bwd": (2, 1), "log_prob_fwd": (2, 1), "log_prob_bwd": (3, 2)}
    for name, binary, (total, mufu, registers) in zip(names, binaries, counts):
        reads, writes = traffic[name]
        draws = 0 if full or "prob" in name else 2
        if full:
            reads, writes = reads + (1 if "prob" in name else 2), writes + {"fwd": 0, "bwd": 2}.get(name, 1)
        wide = 5.8 if draws else 2.0
        budget = Budget(total + more, mufu, wide + 0.5, wide, draws, reads, writes)
        check(binary, case, budget, Ceiling(registers, 4096))


@pytest.mark.parametrize("case", _EVERY_KIND, ids=str)
def test_every_kind(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    check_all(compiled[case].result(), case, _COUNTS[case.name], _NAMES)


@pytest.mark.parametrize("case", _HALVES, ids=str)
def test_half_formats(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    counts = tuple((total, mufu, registers + 8) for total, mufu, registers in _COUNTS[case.name][:2])
    check_all(compiled[case].result(), case, counts, _NAMES[:2], more=4)


@pytest.mark.parametrize("case", _FULL_CASES, ids=str)
def test_noise_and_beta_of_every_element(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    names = ("fwd", "bwd", "log_prob_bwd")
    check_all(compiled[case].result(), case, _FULL[case.name.split()[0]], names, full=True)


@pytest.mark.parametrize("case", _SHAPES, ids=str)
def test_shapes(case: Case, compiled: dict[Case, Future[list[Binary]]]) -> None:
    """Whole tiles in 16-byte pieces and the last one element by element; numbers of 64 bits."""
    odd = case.shape == _ODD
    counts = tuple((total, mufu, 136 if odd else 80) for total, mufu, registers in _COUNTS["power"][:2])
    check_all(compiled[case].result(), case, counts, _NAMES[:2], more=18 if odd else 0)
