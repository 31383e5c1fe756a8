"""The one torch.library.Library: every op is an overload packet with one overload per compiled backend."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch

_LIBRARY = torch.library.Library("dvae_kernels", "DEF")


def define_op(
    schema: str, reference: ModuleType, allocate: Callable[..., Any], *, composed: bool = False
) -> dict[str, Callable[..., Any]]:
    """Define `dvae_kernels::<name>.{cpp,triton,cuda}` and return what to call by backend.

    schema: `name(arguments) -> returns`. Functions of that name and those arguments stand in the modules of the op's
    folder: in `reference` in plain torch, which stays a function, so that torch.compile sees into it; in
    `triton_kernels.py` the launcher, imported at the first call. `cpp` and `cuda` get their kernels when their module
    is loaded. `allocate` makes the outputs, not written, from some of the arguments, which it names as the schema does.
    Launchers call it, and it is the op's fake: torch.compile takes the same shapes, dtypes and strides for every
    backend, so all of them must allocate alike.

    In place of kernels, an op may be `composed` of other ops: by a function in `composition.py` of the backend's name
    and the arguments, whose loops and shapes torch.compile does not see.
    """
    name, signature = schema.split("(", 1)
    fake = _fake(signature, allocate)
    implementations: dict[str, Callable[..., Any]] = {"reference": getattr(reference, name)}
    function = _lazy(f"{reference.__package__}.{'composition' if composed else 'triton_kernels'}", name)
    for backend in ("cpp", "triton", "cuda"):
        _LIBRARY.define(f"{name}.{backend}({signature}", tags=(torch.Tag.pt2_compliant_tag,))
        qualified = f"dvae_kernels::{name}.{backend}"
        overload = getattr(getattr(torch.ops.dvae_kernels, name), backend)
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_vmap(qualified, _looped(overload), lib=_LIBRARY)
        implementations[backend] = overload
        if composed or backend == "triton":
            kernel = partial(function, backend) if composed else function
            for key in ("CPU", "CUDA"):  # Triton on CPU: under the interpreter
                _LIBRARY.impl(f"{name}.{backend}", kernel, key)
    return implementations


def _fake(signature: str, allocate: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an op's arguments that passes `allocate` those it names."""
    names = re.findall(r"(\w+)[,)]", signature.split("->")[0])
    wanted = list(inspect.signature(allocate).parameters)
    assert set(wanted) <= set(names), f"{allocate.__name__}: no {set(wanted) - set(names)} in ({signature}"

    def fake(*args: Any, **kwargs: Any) -> Any:
        values = dict(zip(names, args)) | kwargs
        return allocate(*(values[name] for name in wanted))

    return fake


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """A function that is imported when it is first called."""
    function = cache(lambda: getattr(importlib.import_module(module), name))
    return lambda *args: function()(*args)


def _looped(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    """The vmap rule: one call per sample, since folding samples into rows would give them other noise."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        if info.batch_size == 0:
            raise ValueError(f"{overload}: vmap over an empty batch")
        results = []
        for i in range(info.batch_size):
            sample = (a if d is None else a.select(d, i) for a, d in zip(args, in_dims))
            results.append(overload(*sample))
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(column) for column in zip(*results)), (0,) * len(results[0])

    return rule
