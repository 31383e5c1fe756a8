"""Derivatives in forward mode, in eager: jvp, jacfwd, hessian, and torch.autograd.forward_ad.

A gradient is linear in the cotangent u, and differentiable itself. Its derivative to u, at the tangents of the inputs,
is the product with the Jacobian (the double-backward trick): so forward mode has the very gradients of backward, an
estimator's too.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad


class _Constant:
    """An argument that torch.func takes for one leaf, which a NamedTuple is not."""

    def __init__(self, value: Any):
        self.value = value


class _Context:
    """The context of a Function inside the one with a jvp, whose saved tensors are its own and the inputs."""

    def __init__(self, ctx: Any, saved: tuple[Any, ...] = ()):
        vars(self).update(ctx=ctx, saved_tensors=saved)

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        vars(self).update(saved_tensors=tensors)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["ctx"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["ctx"], name, value)


class _Call(NamedTuple):
    """What a jvp needs of its forward, besides the tensors among the inputs."""

    inputs: tuple[Any, ...]  # with None for tensors
    moves: list[bool]  # which outputs have tangents
    saved: int  # how many tensors backward has


def apply_with_jvp(function: type[torch.autograd.Function], *args: Any) -> Any:
    """function.apply(*args) by a Function that has a jvp; torch.compile takes none that has one."""
    # behind a graph break, dynamo would look into the functions that run eagerly
    chosen = _with_jvp(function, "torch._dynamo" in sys.modules)
    return chosen.apply(*(x if x is None or isinstance(x, Tensor) else _Constant(x) for x in args))


@cache
def _with_jvp(function: Any, dynamo: bool) -> Any:
    class WithJvp(function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            result = function.forward(*_opened(args))
            # tangents are written into memory of the outputs' strides
            return result if isinstance(result, Tensor) else tuple(y.contiguous() for y in result)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            inputs, own = _opened(inputs), _Context(ctx)
            function.setup_context(own, inputs, output)
            constant = getattr(ctx, "non_differentiable", None) or ()
            moves = [y.is_floating_point() and all(y is not other for other in constant) for y in _tuple(output)]
            given = tuple(None if isinstance(x, Tensor) else x for x in inputs)
            ctx.call = _Call(given, moves, len(own.saved_tensors))
            # vmap takes the two lists for one
            saved = *own.saved_tensors, *(x if isinstance(x, Tensor) else None for x in inputs)
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return function.backward(_Context(ctx, ctx.saved_tensors[: ctx.call.saved]), *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            given, moves, first = ctx.call
            tensors = ctx.saved_tensors[first:]
            inputs = [x if tensor is None else _primal(tensor) for x, tensor in zip(given, tensors)]
            places = [i for i, tangent in enumerate(tangents) if isinstance(tangent, Tensor)]

            def outputs(*primals: Tensor) -> tuple[Tensor, ...]:
                replaced = dict(zip(places, primals))
                results = _tuple(apply_with_jvp(function, *(replaced.get(i, x) for i, x in enumerate(inputs))))
                return tuple(y for y, moving in zip(results, moves) if moving)

            vjp: Any = torch.func.vjp  # whose type has an optional third result
            values, gradient = vjp(outputs, *(inputs[i] for i in places))
            _, product = vjp(gradient, tuple(torch.zeros_like(y) for y in values))
            (results,) = product(tuple(tangents[i] for i in places))
            remaining = iter(results)
            every = tuple(next(remaining) if moving else None for moving in moves)
            return every[0] if len(every) == 1 else every

    if dynamo:
        for name in ("forward", "setup_context", "backward", "jvp"):
            setattr(WithJvp, name, staticmethod(torch.compiler.disable(getattr(WithJvp, name))))
    WithJvp.__name__ = WithJvp.__qualname__ = function.__name__
    return WithJvp


def _opened(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.value if isinstance(x, _Constant) else x for x in args)


def _tuple(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def _primal(x: Tensor) -> Tensor:
    """x without its tangent, or a batch whose samples have none."""
    functorch = torch._C._functorch
    if functorch.is_batchedtensor(x):
        samples = _primal(functorch.get_unwrapped(x))
        return functorch._add_batch_dim(samples, functorch.maybe_get_bdim(x), functorch.maybe_get_level(x))
    return forward_ad.unpack_dual(x).primal
