"""Helpers of the ops' autograd Functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dvae_kernels import _library

Function = TypeVar("Function", bound=type[torch.autograd.Function])


def needs_function(*tensors: Tensor | None) -> bool:
    """Whether a call has to go through its autograd Function; else the raw op saves the microseconds of apply().

    `tensors` are those with a gradient. Under torch.func, torch.compile and forward mode, requires_grad does not tell.
    """
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return torch.compiler.is_compiling() or transformed()


def apply_or_forward(
    function: type[torch.autograd.Function],
    differentiable: tuple[Tensor | None, ...],
    *constants: Any,
    borrows_key: bool = False,
) -> Any:
    """function.apply(*differentiable, *constants), or its forward alone where no gradient can be asked for.

    borrows_key: the first of the constants is a noise key of the caller, who may advance it before backward.
    """
    if not needs_function(*differentiable):
        return function.forward(*differentiable, *constants)
    if borrows_key:
        constants = (snapshot(constants[0]), *constants[1:])
    return apply(function, *differentiable, *constants)


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """function.apply(*args), in eager with a derivative in forward mode while that is active."""
    if torch.compiler.is_compiling():
        if transformed() and any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in args):
            raise RuntimeError(  # dynamo would take the tangents for zeros
                f"{function.__name__}: forward mode is not compiled; call torch.func.jvp outside torch.compile"
            )
    elif forward_ad._current_level >= 0:  # torch.func.jvp opens one too
        from dvae_kernels._forward_mode import apply_with_jvp

        return apply_with_jvp(function, *args)
    return function.apply(*args)


def snapshot(tensor: Tensor) -> Tensor:
    """A copy that later changes of `tensor` in place leave alone, in compiled graphs too."""
    return _library.snapshot(tensor) if traced_for_training() else tensor.clone()


def traced_for_training() -> bool:
    """Whether torch.compile traces, but not torch.export, whose graphs have no backward."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def check_unchanged_in_recomputation(name: str, state: Tensor) -> None:
    """Raise where activation checkpointing runs a forward again, inside a backward, and `state`, which the forward
    reads, was changed in place after the last forward outside one.
    """
    if torch.compiler.is_compiling():
        return
    version = state._version
    if torch._C._current_graph_task_id() == -1:
        state._version_read = version  # type: ignore[attr-defined]
    elif getattr(state, "_version_read", version) != version:
        raise RuntimeError(
            f"{name} was changed in place between a forward and its recomputation in backward, by activation "
            f"checkpointing, which would get other values: change it after backward, or give the checkpointed function "
            "a copy (without key, seed or generator, torch restores the noise by itself)"
        )


def saved_with_output(ctx: Any, op: str, output: str) -> tuple[Any, ...]:
    """Inside a backward: the saved tensors, an output among them, which the caller may have changed in place."""
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if f"which is output 0 of {type(ctx).__name__.removesuffix('Backward')}" not in str(error):
            raise
        raise RuntimeError(
            f"{op}: {output}, which backward needs, was changed in place before it; give the function that changes it "
            f"a copy, {output}.clone(), or use one that does not work in place"
        ) from error


def transformed() -> bool:
    """Whether a transform of torch.func or forward mode is active, whose derivatives requires_grad does not tell of."""
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def differentiated_twice() -> bool:
    """Inside a backward: whether it is differentiated itself, so that a raw op will not do.

    Compiled graphs never do that, and dynamo cannot trace a Function inside a backward.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_backward(twice: Callable[..., Any], raw: dict[str, Callable[..., Any]], backend: str, *args: Any) -> Any:
    """Inside a backward: the raw op, or twice(*args, backend), the same with a derivative, where that is needed."""
    return twice(*args, backend) if differentiated_twice() else raw[backend](*args)


def backward_backend(backend: str) -> str:
    """Inside a backward: the backend of its op, plain torch where autograd is to differentiate the gradient in turn."""
    return "reference" if differentiated_twice() else backend


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
