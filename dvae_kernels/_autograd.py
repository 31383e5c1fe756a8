"""What the ops' autograd Functions share."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

Function = TypeVar("Function", bound=type[torch.autograd.Function])


def needs_function(*tensors: Tensor | None) -> bool:
    """Whether a call has to go through its autograd Function; else the raw op saves the microseconds of apply().

    `tensors` are those with a gradient. Under torch.func, torch.compile and forward mode, requires_grad does not tell.
    """
    if transformed() or torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def transformed() -> bool:
    """Whether a transform of torch.func is active: whether it differentiates cannot be seen from requires_grad."""
    return torch._C._are_functorch_transforms_active()


def differentiated_twice() -> bool:
    """Inside a backward: whether it is differentiated itself, so that a raw op will not do.

    Compiled graphs never do that, and dynamo cannot trace a Function inside a backward.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def quick_apply(function: Function) -> Function:
    """Class decorator for a Function that is called with all arguments by position.

    Function.apply looks up the signature of forward in every call and binds the arguments to it, 20 us together.
    """
    setattr(function.forward, "__signature__", _ByPosition.from_callable(function.forward))  # noqa: B010
    return function


class _ByPosition(inspect.Signature):
    def bind(self, *args: Any, **kwargs: Any) -> Any:
        return _Bound(args, kwargs)


class _Bound:
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.args, self.kwargs = args, kwargs

    def apply_defaults(self) -> None:
        pass


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Products in the dtypes of their factors, also where the caller's autocast is on."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
