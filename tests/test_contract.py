"""One contract, held by every op in every backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kit.discovery import CASES, OPINFOS
from kit.dtypes import skip_unreliable
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract, place, run
from kit.targets import Target

# a seventh of every op's
THREADED = [
    case for info in OPINFOS for case in [c for c in info.cases if c.layout == "contiguous" and not c.products][::7]
]


def skip_what_the_interpreter_cannot(case: Case, target: Target) -> None:
    if target.interpreted and case.slow_interpreted:
        pytest.skip("too slow in the interpreter")
    if target.interpreted:
        skip_unreliable(target, *(x.dtype for x in case.inputs().values()))


@contextmanager
def nan_filled_empties() -> Iterator[None]:
    """torch.empty gives NaN, so that an element which no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: Case, target: Target) -> None:
    """Output and gradients are within the error budget, every element is written, no input is touched."""
    skip_what_the_interpreter_cannot(case, target)
    with nan_filled_empties():
        assert_keeps_the_contract(case, target.backend, target.device)


@pytest.mark.parametrize("case", THREADED, ids=str)
def test_thread_count_changes_no_bit(case: Case, target: Target) -> None:
    if target.backend != "cpp":
        pytest.skip("only cpp divides rows among threads itself")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(case, place(case, target.device), target.backend))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, result in results[0].items():
            assert torch.equal(result, other[name]), f"{name} depends on the number of threads"
