"""What every op is held to: a case, its float64 oracle, and the error that a backend may make.

The oracle is the reference on inputs upcast to float64. A backend's largest error may be twice what the reference
makes in the case's own dtype plus one rounding: 2 * (reference error + eps * max|oracle|). Both are taken over several
noise keys and cotangents, because a single small case can meet no rounding at all, or a gradient that cancels.
Float64 has no finer oracle, so it is held to a fixed number of roundings of the largest value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
RawCall = tuple[str, tuple[Any, ...]]  # a raw op's name and its arguments
SLACK = 2.0
FLOAT64_ROUNDINGS = 256
TIE = 1e-5  # scores closer than this may be ordered either way in float32


@dataclass(frozen=True)
class Case:
    """One call of a public op, with inputs that need a gradient where the op is differentiable."""

    name: str
    inputs: Callable[[], Inputs]  # values on the CPU, the same at every call
    call: Callable[[Inputs, Tensor, str], Tensor]  # (inputs, noise key, backend) -> output
    dtype: torch.dtype  # of the output
    layout: str = "contiguous"  # of the inputs that have more than one element
    grad_layout: str = "contiguous"
    # of a one-hot output: (inputs, key) -> float64 scores whose argmax along `dim` it marks
    scores: Callable[[Inputs, Tensor], Tensor] | None = None
    dim: int = -1
    # of zeros and ones: (inputs, key) -> float64 scores, positive where it is one
    odds: Callable[[Inputs, Tensor], Tensor] | None = None
    keys: int = 16  # how many keys estimate the reference's error
    slow_interpreted: bool = False
    products: bool = False  # it holds matrix products of torch, whose bits depend on the number of threads

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Op:
    """A public op with its options fixed, for tests that do not depend on what it computes."""

    name: str
    # float64 values of the differentiable arguments for logits of a shape, the categories (or codes) at dimension 1
    inputs: Callable[[tuple[int, ...]], Inputs]
    # (inputs, backend, **noise) -> the differentiable output; noise is key=, seed= or nothing
    call: Callable[..., Tensor]
    draws: bool = True  # False: it has no noise, and no arguments for it
    step: bool = False  # the output is a step function of the inputs, whose gradient is an estimator's
    # the gradient holds constant what depends on the inputs: it is checked as a function of the cotangent alone
    held: bool = False
    noise_grad: bool = True  # the gradient depends on the noise, given a cotangent that does not

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Errors:
    """Bad calls of one public function; what its signature tells (tau, dim, key, ...) need not be repeated."""

    function: Callable[..., Any]
    arguments: dict[str, Any]  # of a valid call: its tensors, logits of shape [2, 3]
    # by name: (arguments, error, the whole message after "op: ")
    special: dict[str, tuple[dict[str, Any], type[Exception], str]] = field(default_factory=dict)
    positive_tau: bool = False  # tau = 0 is refused


@dataclass(frozen=True)
class Room:
    """What the generic tests know of the ops of one folder."""

    name: str
    cases: list[Case]
    ops: list[Op]
    reference: ModuleType  # whose functions have the raw ops' names
    # (logits, key) -> calls of every raw op on tensors made like the logits, which have their categories at dimension
    # 1 and any dtype, layout and device; they may be fake
    raw_calls: Callable[[Tensor, Tensor], list[RawCall]]
    errors: list[Errors]
    # by raw op: how many of its outputs, from the first, are the same on every backend, if not all
    shared_outputs: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def noise_key(i: int, device: str | torch.device = "cpu") -> Tensor:
    return torch.tensor([0x0123456789ABCDEF + i, 7 + i], device=device)


# How to lay values out in memory: the storage is larger than the view, and NaN wherever the view is not.
def _embed(x: Tensor, order: list[int], step: int, offset: int) -> Tensor:
    """`x` with memory order `order` (slowest first), every `step`-th element, `offset` elements into a storage."""
    strides, size = [0] * x.dim(), step
    for d in reversed(order):
        strides[d] = size
        size *= x.shape[d] * step
    storage = torch.full((offset + size + 64,), torch.nan, dtype=x.dtype, device=x.device)
    view = storage.as_strided(x.shape, strides, offset)
    return view.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "guarded": lambda x: _embed(x, list(range(x.dim())), 1, 64),
    "offset": lambda x: _embed(x, list(range(x.dim())), 1, 1),
    "stepped": lambda x: _embed(x, list(range(x.dim())), 2, 3),
    "transposed": lambda x: _embed(x, list(reversed(range(x.dim()))), 1, 64),
    "rotated": lambda x: _embed(x, [*range(1, x.dim()), 0], 1, 64),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    # stride 0: only for values that repeat, which the case's inputs must see to
    "expanded_first": lambda x: x[:1].clone().expand(x.shape),
    "expanded_second": lambda x: x[:, :1].clone().expand(x.shape),
    "expanded_last": lambda x: x[..., :1].clone().expand(x.shape),
    "expanded_all": lambda x: x.flatten()[0].clone().expand(x.shape),
}


# The part of a tensor that a layout repeats; contract tables make their values by `repeated`.
REPEATS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded_first": lambda x: x[:1],
    "expanded_second": lambda x: x[:, :1],
    "expanded_last": lambda x: x[..., :1],
}


def repeated(x: Tensor, layout: str) -> Tensor:
    """Values of the shape of `x` that `layout` can hold."""
    return REPEATS.get(layout, lambda x: x)(x).expand(x.shape)


def lay_out(x: Tensor, layout: str) -> Tensor:
    view = LAYOUTS[layout](x) if x.numel() else x.clone()
    assert torch.equal(view, x), f"{layout} needs repeated values"
    return view


def storage_bytes(x: Tensor) -> Tensor:
    return torch.tensor([], dtype=torch.uint8, device=x.device).set_(x.untyped_storage()).clone()


def place(case: Case, device: str) -> Inputs:
    """The case's inputs on `device`, as leaves in the case's layout."""
    result = {}
    for name, value in case.inputs().items():
        value = value.to(device)
        view = lay_out(value, case.layout) if value.dim() else value.clone()
        result[name] = view.requires_grad_(view.is_floating_point())
    return result


def cotangent(case: Case, output: Tensor, seed: int) -> Tensor:
    """The same values for every backend and precision: what the output's dtype can hold."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(case.dtype)
    layout = "contiguous" if seed else case.grad_layout
    if layout == "expanded_all" and values.numel():
        values = values.flatten()[0].expand(values.shape)
    values = values.to(device=output.device, dtype=output.dtype)
    return lay_out(values, layout) if values.dim() else values


def run(case: Case, inputs: Inputs, backend: str, seed: int = 0) -> dict[str, Tensor]:
    """The output and the gradient to every input; `seed` chooses the noise and the cotangent."""
    device = next(iter(inputs.values())).device
    output = case.call(inputs, noise_key(seed, device), backend)
    grads = torch.autograd.grad(
        output, list(inputs.values()), cotangent(case, output, seed), materialize_grads=not output.numel()
    )
    return {"output": output.detach(), **{f"grad of {name}": g for name, g in zip(inputs, grads)}}


@dataclass(frozen=True)
class Expectation:
    oracle: Tensor
    budget: float


@cache
def expected(case: Case) -> dict[str, Expectation]:
    """For seed 0: the oracle's results, and how far a backend may be from each."""
    seeds = range(case.keys)
    oracle = [_run_reference(case, seed, torch.float64) for seed in seeds]
    own = [_run_reference(case, seed, None) for seed in seeds]
    expectations = {}
    for name, first in oracle[0].items():
        # a gradient passes through the output's dtype and its input's own
        eps = max(torch.finfo(own[0][name].dtype).eps, torch.finfo(case.dtype).eps)
        scale = max(largest(result[name]) for result in oracle)
        if case.dtype == torch.float64:
            budget = FLOAT64_ROUNDINGS * eps * scale
        else:
            budget = SLACK * (max(distance(o[name], e[name]) for o, e in zip(own, oracle)) + eps * scale)
        expectations[name] = Expectation(first, budget)
    return expectations


def _run_reference(case: Case, seed: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    values = {name: x.to(dtype).requires_grad_() for name, x in case.inputs().items()}
    return run(case, values, "reference", seed)


def largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def distance(actual: Tensor, oracle: Tensor) -> float:
    """The largest absolute difference; infinite where one is NaN and the other is not."""
    if not oracle.numel():
        return 0.0
    actual = actual.detach().to("cpu", torch.float64)
    difference = (actual - oracle).abs()
    difference[(actual == oracle) | (actual.isnan() & oracle.isnan())] = 0
    return difference.nan_to_num(math.inf).max().item()


def assert_marks_best(onehot: Tensor, scores: Tensor, dim: int) -> None:
    """Exactly one-hot along `dim`, at the best float64 score or at one closer to it than float32 can tell."""
    onehot = onehot.to("cpu", torch.float64)
    assert ((onehot == 0) | (onehot == 1)).all() and (onehot.sum(dim) == 1).all(), "not exactly one-hot"
    chosen, best = (scores * onehot).sum(dim), scores.amax(dim)
    assert (best - chosen <= TIE).all(), f"missed the best score by up to {largest(best - chosen)}"


def assert_marks_positive(bits: Tensor, odds: Tensor) -> None:
    """Exactly zeros and ones, on the right side of every float64 score that float32 can tell from 0."""
    bits = bits.to("cpu", torch.float64)
    assert ((bits == 0) | (bits == 1)).all(), "not exactly zeros and ones"
    wrong = odds[(bits == 1) != (odds > 0)]
    assert (wrong.abs() <= TIE).all(), f"on the wrong side of 0 by up to {largest(wrong)}"


def assert_keeps_the_contract(case: Case, backend: str, device: str) -> None:
    """One call and its gradients: within the budget, with nothing changed around the inputs."""
    inputs = place(case, device)
    before = {name: storage_bytes(x) for name, x in inputs.items()}
    results = run(case, inputs, backend)
    for name, x in inputs.items():
        assert torch.equal(storage_bytes(x), before[name]), f"{name} or its surroundings changed"
    assert results["output"].dtype == case.dtype
    for name, expectation in expected(case).items():
        result = results[name]
        assert result.shape == expectation.oracle.shape
        if name == "output" and case.scores is not None:
            if result.numel():
                assert_marks_best(torch.atleast_1d(result), case.scores(inputs, noise_key(0)), case.dim)
            continue
        if name == "output" and case.odds is not None:
            assert_marks_positive(result, case.odds(inputs, noise_key(0)))
            continue
        error = distance(result, expectation.oracle)
        assert error <= expectation.budget, f"{name}: error {error:.3g} above the budget {expectation.budget:.3g}"
