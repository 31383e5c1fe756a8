"""Parts of the tests that can be chosen by pytest's options: the core, one op, one instruction set.

`-m core`       what `make check` runs, and `make matrix` under every version of torch and Triton.
`--op NAME`     the tests of one op: those in its folder, and of the generic ones those that are made from its cases.
`--best-simd`   cpp on the best instruction set of this CPU alone.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from dvae_kernels import _extension
from kit.discovery import OPINFOS
from kit.targets import Target

ALL = {"": 1}
# By module and test: one of how many of its cases belongs to the core. ALL: every test of the module, whole.
CORE: dict[str, dict[str, int]] = {
    "test_architecture": ALL,
    "test_autograd": {
        "test_first_and_second_derivatives": 1,
        "test_one_gradient_without_the_others": 1,
        "test_no_graph_without_need": 1,
        "test_the_key_may_change_between_forward_and_backward": 1,
        "test_vmap": 1,
    },
    "test_compile": {"test_opcheck": 1, "test_compiled_equals_eager": 4},
    "test_contract": {"test_contract": 3, "test_thread_count_changes_no_bit": 5},
    "test_docs": ALL,
    "test_import": ALL,
    "test_layout": ALL,
    "test_raw_ops": ALL,
    "test_rng": ALL,
    "test_ties": ALL,
    "test_triton_numerics": ALL,
    "test_triton_rng": ALL,
    "test_validation": ALL,
}
# So many times fewer cases in the interpreter, of the tests that do not run whole.
SLOWER_INTERPRETED = 6


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("dvae_kernels", "a part of the tests; -m core is another")
    group.addoption("--op", choices=[info.name for info in OPINFOS], help="the tests of one op")
    group.addoption("--best-simd", action="store_true", help="cpp on the best instruction set of this CPU alone")


def mark_core(items: list[pytest.Item]) -> None:
    """Of a test that has one case in n, the same cases on every target."""
    seen: dict[tuple[Path, str, str], int] = {}
    for item in items:
        tests, name = CORE.get(item.path.stem, {}), getattr(item, "originalname", item.name)
        every = tests.get(name, tests.get("", 0))
        if every:
            kind = item.path, name, " ".join(str(value) for value in values_of(item) if isinstance(value, Target))
            seen[kind] = seen.get(kind, -1) + 1
            if every > 1 and any(isinstance(value, Target) and value.interpreted for value in values_of(item)):
                every *= SLOWER_INTERPRETED
            if seen[kind] % every == 0:
                item.add_marker(pytest.mark.core)


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Follow --op and --best-simd."""
    op, best_simd = config.getoption("--op"), config.getoption("--best-simd")
    kept = [item for item in items if (not op or belongs_to(op, item)) and not (best_simd and on_lesser_simd(item))]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def values_of(item: pytest.Item) -> list[Any]:
    """What the test is parametrized with."""
    callspec = getattr(item, "callspec", None)
    return list(callspec.params.values()) if callspec else []


def belongs_to(op: str, item: pytest.Item) -> bool:
    if item.path.parent.name == op:
        return True
    (info,) = (info for info in OPINFOS if info.name == op)
    own = {id(x) for x in (info, *info.cases, *info.ops, *info.errors)}
    public = import_module(f"dvae_kernels.ops.{op}").__all__
    for value in values_of(item):
        names_own = isinstance(value, str) and (value in public or hasattr(info.reference, value))
        if id(value) in own or names_own or (isinstance(value, Path) and value.parent.name == op):
            return True
    return False


def on_lesser_simd(item: pytest.Item) -> bool:
    if _extension.load("_C"):
        return False
    best = torch.ops.dvae_kernels.cpu_capability(None).removesuffix("_vnni")  # which changes nearest_code alone
    return any(isinstance(value, Target) and value.capability not in (None, best) for value in values_of(item))
