"""What the tests share: the backends that can run here, as fixtures, and the marks that choose between processes.

Plain `pytest` runs what a CPU can; `TRITON_INTERPRET=1 pytest -m interpret` runs the Triton kernels in the
interpreter, which must be chosen before triton is imported; `pytest -m gpu` needs a GPU.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import settings

from kit import selection
from kit.targets import BACKENDS, KERNELS, TARGETS, Target, params, ready

settings.register_profile("dvae", deadline=None, derandomize=True, database=None)
settings.load_profile("dvae")


@pytest.fixture(params=params(TARGETS))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Every backend that can run, cpp once per instruction set."""
    yield from ready(request.param)


@pytest.fixture(params=params(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Every backend once, for what does not depend on the instruction set."""
    yield from ready(request.param)


@pytest.fixture(params=params(KERNELS))
def kernel(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Every backend that has kernels, once."""
    yield from ready(request.param)


@pytest.fixture(scope="session")
def compilers() -> Iterator[ProcessPoolExecutor]:
    """Processes that compile kernels ahead of time."""
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    selection.add_options(parser)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in ("cpu", "interpret", "aot", "gpu")):
            item.add_marker(pytest.mark.cpu)
    selection.mark_core(items)
    selection.deselect(config, items)
