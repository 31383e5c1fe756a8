"""Raw CPU ops called by hand: what cannot be read as meant is refused, and nothing outside is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dvae_kernels import _extension
from kit.discovery import OPINFOS
from kit.opinfo import OpInfo, RawError

X = torch.zeros(2, 5)
KEY = torch.tensor([1, 2])
# of every op with an argument of that name
COMMON = [
    RawError("key", lambda key: key[:1], "a key of two int64 words"),
    RawError("key", lambda key: key.int(), "a key of two int64 words"),
    RawError("tau", lambda _: torch.ones(0), "tau to be one float32 or float64 value"),
    RawError("tau", lambda _: torch.ones((), dtype=torch.half), "tau to be one float32 or float64 value"),
    RawError("dim", lambda _: -1, "dim"),
    RawError("dim", lambda _: 2, "[dD]im"),
]


def arguments_of(name: str) -> list[str]:
    return [argument.name for argument in getattr(torch.ops.dvae_kernels, name).cpp._schema.arguments]


def raw_errors(info: OpInfo) -> Iterator[Any]:
    """Each mistake in the first call of every raw op that gives the argument, or in the first where none does."""
    first: dict[str, list[dict[str, Any]]] = {}
    for name, values in info.raw_calls(X, KEY):
        first.setdefault(name, []).append(dict(zip(arguments_of(name), values, strict=True)))
    for number, error in enumerate([*COMMON, *info.raw_errors]):
        for name, calls in first.items():
            if error.argument in calls[0] and error.op in name:
                call = next((call for call in calls if call[error.argument] is not None), calls[0])
                yield pytest.param(name, call, error, id=f"{name}-{error.argument}{number}")


@pytest.fixture(autouse=True)
def cpp() -> Iterator[None]:
    if reason := _extension.load("_C"):
        pytest.skip(reason)
    yield


@pytest.mark.parametrize(("name", "arguments", "error"), [case for info in OPINFOS for case in raw_errors(info)])
def test_bad_arguments_are_refused(name: str, arguments: dict[str, Any], error: RawError) -> None:
    op = getattr(torch.ops.dvae_kernels, name).cpp
    op(**arguments)
    with pytest.raises((RuntimeError, IndexError), match=error.message):
        op(**{**arguments, error.argument: error.change(arguments[error.argument])})


def test_a_gradient_to_no_prior_is_refused() -> None:
    with pytest.raises(RuntimeError, match="expected a prior where its gradient is needed"):
        torch.ops.dvae_kernels.categorical_kl_bwd.cpp(X[:, 0], X, None, 1, True)
