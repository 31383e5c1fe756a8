"""The one torch.library.Library: every op is an overload packet with one overload per compiled backend.

An exported program names the overloads of the machine that exported it. So that it runs anywhere, an overload whose
kernels are not built here, or not for the device of its tensors, does what the automatic choice would do.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch

from dvae_kernels import _backend, _extension

_NAMESPACE: Any = torch.ops.dvae_kernels
# A second import in one process, after sys.modules was purged, takes the ops of the first: the Library outlives it.
_FIRST_IMPORT = "process_library" not in vars(_NAMESPACE)
if _FIRST_IMPORT:
    _NAMESPACE.process_library = torch.library.Library("dvae_kernels", "DEF")
_LIBRARY: torch.library.Library = _NAMESPACE.process_library
_DEVICES = {"CPU": "cpu", "CUDA": "cuda"}  # by dispatch key
_ops: dict[str, dict[str, Callable[..., Any]]] = {}


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
    implementations = _ops[name] = {"reference": getattr(reference, name)}
    function = _lazy(f"{reference.__package__}.{'composition' if composed else 'triton_kernels'}", name)
    for backend in ("cpp", "triton", "cuda"):
        if _FIRST_IMPORT:
            _register(name, backend, signature, fake, function, composed)
        implementations[backend] = getattr(getattr(_NAMESPACE, name), backend)
    return implementations


def _register(
    name: str, backend: str, signature: str, fake: Callable[..., Any], function: Callable[..., Any], composed: bool
) -> None:
    _LIBRARY.define(f"{name}.{backend}({signature}", tags=(torch.Tag.pt2_compliant_tag,))
    qualified, overload = f"dvae_kernels::{name}.{backend}", getattr(getattr(_NAMESPACE, name), backend)
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    torch.library.register_vmap(qualified, _looped(overload), lib=_LIBRARY)
    for key, device in _DEVICES.items():
        if composed:
            _LIBRARY.impl(f"{name}.{backend}", partial(function, backend), key)
        elif backend == "triton":  # on the CPU: under the interpreter
            _LIBRARY.impl(f"{name}.triton", _where_available("triton", function, name, device), key)


def load_kernels() -> None:
    """Load the compiled modules, once all ops are defined; where that leaves an overload without kernels for a device,
    the automatic choice runs there."""
    for module in ("_C", "_C_cuda"):
        _extension.load(module)
    for name in _ops if _FIRST_IMPORT else ():
        for backend in ("cpp", "cuda"):
            for key, device in _DEVICES.items():
                if not torch._C._dispatch_has_kernel_for_dispatch_key(f"dvae_kernels::{name}.{backend}", key):
                    _LIBRARY.impl(f"{name}.{backend}", _automatic(name, device), key)


def _automatic(name: str, device: str) -> Callable[..., Any]:
    return lambda *args: _ops[name][_backend.resolve(name, None, device)](*args)


def _where_available(backend: str, kernel: Callable[..., Any], name: str, device: str) -> Callable[..., Any]:
    automatic = _automatic(name, device)
    return lambda *args: (automatic if _backend.why_not(backend, device) else kernel)(*args)


def _fake(signature: str, allocate: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an op's arguments that passes `allocate` those it names."""
    names = re.findall(r"(\w+)[,)]", signature.split("->")[0])
    wanted = list(inspect.signature(allocate).parameters)
    assert set(wanted) <= set(names), f"{allocate.__name__}: no {set(wanted) - set(names)} in ({signature}"

    def fake(*args: Any, **kwargs: Any) -> Any:
        values = dict(zip(names, args)) | kwargs
        return allocate(*(values[name] for name in wanted))

    return fake


def _define_snapshot() -> Callable[[torch.Tensor], torch.Tensor]:
    """A copy of a tensor as it is now. torch.compile makes a plain clone again in backward, when its source may have
    changed in place; an op that it cannot see into is made once."""
    if _FIRST_IMPORT:
        name = "dvae_kernels::snapshot"
        _LIBRARY.define("snapshot(Tensor tensor) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl("snapshot", lambda tensor: tensor.clone(), "CompositeExplicitAutograd")
        torch.library.register_fake(name, lambda tensor: torch.empty_like(tensor), lib=_LIBRARY)
        torch.library.register_vmap(name, lambda _, dims, tensor: (_NAMESPACE.snapshot(tensor), dims[0]), lib=_LIBRARY)
        torch.library.register_autograd(name, lambda _, grad: grad, lib=_LIBRARY)
    return _NAMESPACE.snapshot.default


snapshot = _define_snapshot()


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """A function that is imported when it is first called."""
    function = cache(lambda: getattr(importlib.import_module(module), name))
    return lambda *args: function()(*args)


def _looped(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    """The vmap rule: one call per sample, since folding samples into rows would give them other noise."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        if info.batch_size == 0:  # shapes of one sample's results
            samples = (a if d is None else a.new_zeros(a.shape[:d] + a.shape[d + 1 :]) for a, d in zip(args, in_dims))
            results = [overload(*samples)]
        else:
            results = [
                overload(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims)))
                for i in range(info.batch_size)
            ]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results)[: info.batch_size], 0
        return tuple(torch.stack(column)[: info.batch_size] for column in zip(*results)), (0,) * len(results[0])

    return rule
