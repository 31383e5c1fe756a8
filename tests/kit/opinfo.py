"""What an op tells the tests of itself: its cases, its public functions, calls of its raw ops, and bad calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
RawCall = tuple[str, tuple[Any, ...]]  # a raw op's name and its arguments


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


def case_name(
    function: str,
    shape: tuple[int, ...],
    *words: object,
    scale: float = 2.0,
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    autocast: bool = False,
) -> str:
    """Of a case: what is as in most cases is left out."""
    text = [
        function, "x".join(map(str, shape)) or "scalar", *words, "" if scale == 2 else f"scale={scale:g}",
        "" if layout == "contiguous" else layout, "" if grad_layout == "contiguous" else f"grad_{grad_layout}",
        "autocast" if autocast else "",
    ]  # fmt: skip
    return " ".join(str(word).removeprefix("torch.") for word in text if word)


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
class ErrorInputs:
    """Bad calls of one public function; what its signature tells (tau, dim, key, ...) need not be repeated."""

    function: Callable[..., Any]
    arguments: dict[str, Any]  # of a valid call: its tensors, logits of shape [2, 3]
    # by name: (arguments, error, the whole message after "op: ")
    special: dict[str, tuple[dict[str, Any], type[Exception], str]] = field(default_factory=dict)
    positive_tau: bool = False  # tau = 0 is refused


@dataclass(frozen=True)
class RawError:
    """A mistake in one argument of raw C++ ops: `change` makes it of the good value."""

    argument: str
    change: Callable[[Any], Any]
    message: str  # a regular expression
    op: str = ""  # a part of the names of the raw ops that it is about


@dataclass(frozen=True)
class OpInfo:
    """What the generic tests know of one op; tests/ops/<op>/cases.py holds it as OPINFO."""

    name: str
    cases: list[Case]
    ops: list[Op]
    reference: ModuleType  # whose functions have the raw ops' names
    # (logits, key) -> calls of every raw op on tensors made like the logits, which have their categories at dimension
    # 1 and any dtype, layout and device; they may be fake
    raw_calls: Callable[[Tensor, Tensor], list[RawCall]]
    errors: list[ErrorInputs]
    # by raw op: how many of its outputs, from the first, are the same on every backend, if not all
    shared_outputs: dict[str, int] = field(default_factory=dict)
    raw_errors: list[RawError] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name
