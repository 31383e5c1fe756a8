"""Gradients where an argument lies exactly at a bound: ours, and not those that a version of torch gives to clamp.

They changed in torch 2.14: clamp(x, max=1) at x = 1 has gradient 0 there, and had 1 before. Backward ops are formulas,
so a bound in one shows in the second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels import SMOOTHING_KINDS, binary_concrete_log_prob, smoothing_log_prob, smoothing_transform
from kit.discovery import OPS
from kit.opinfo import Op

BOUNDS = {"clamp", "clamp_min", "clamp_max", "clip", "minimum", "maximum", "fmin", "fmax", "min", "max", "amin", "amax",
          "relu", "hardtanh"}  # fmt: skip


@pytest.fixture
def no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's bounds refuse a tensor through which a gradient may flow."""
    for name in BOUNDS:
        for owner in (torch, torch.Tensor):
            if hasattr(owner, name):
                monkeypatch.setattr(owner, name, refuse_differentiated(getattr(owner, name), name))


def refuse_differentiated(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        differentiated = any(isinstance(x, Tensor) and x.requires_grad for x in args)
        assert not differentiated or not torch.is_grad_enabled(), f"differentiates torch.{name}"
        return function(*args, **options)

    return call


def differentiate_twice(value: Tensor, leaves: list[Tensor]) -> None:
    first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    total = sum((x.square().sum() for x in first), torch.zeros(()))
    if total.requires_grad:
        torch.autograd.grad(total, leaves, allow_unused=True)


@pytest.mark.usefixtures("no_bounds")
@pytest.mark.parametrize("op", OPS, ids=str)
def test_no_bound_of_torch_is_differentiated(op: Op) -> None:
    leaves = {name: x.requires_grad_() for name, x in op.inputs((2, 4)).items()}
    noise = {"key": torch.tensor([11, 2])} if op.draws else {}
    differentiate_twice(op.call(leaves, "reference", **noise), list(leaves.values()))


@pytest.mark.usefixtures("no_bounds")
@pytest.mark.parametrize("kind", SMOOTHING_KINDS)
def test_no_bound_of_torch_is_differentiated_in_a_kind(kind: str) -> None:
    logits, noise, beta, zeta = (torch.tensor([x] * 2).requires_grad_() for x in (0.3, 0.6, 2.0, 0.4))
    wanted = [logits, beta, noise] if SMOOTHING_KINDS[kind].noise_grad else [logits, beta]
    noise = noise if SMOOTHING_KINDS[kind].noise_grad else noise.detach()
    differentiate_twice(smoothing_transform(logits, beta, kind, noise=noise, backend="reference"), wanted)
    differentiate_twice(smoothing_log_prob(zeta, logits, beta, kind, backend="reference"), [zeta, logits, beta])


@pytest.mark.usefixtures("no_bounds")
def test_a_differentiated_bound_is_refused() -> None:
    x = torch.ones(2, requires_grad=True)
    for bounded in (lambda: x.clamp(0, 1), lambda: torch.clamp_min(x, 1), lambda: x.amax(0), lambda: torch.relu(x)):
        with pytest.raises(AssertionError, match="differentiates"):
            bounded()
    x.detach().clamp(0, 1)


LAST = 1 - 2.0**-53  # of float64 before 1


def transform(kind: str) -> Callable[..., Tensor]:
    return lambda logits, beta, noise: smoothing_transform(logits, beta, kind, noise=noise, backend="reference")


def log_prob(kind: str) -> Callable[..., Tensor]:
    return lambda zeta, logits, beta: smoothing_log_prob(zeta, logits, beta, kind, backend="reference")


def concrete(y: Tensor, logits: Tensor) -> Tensor:
    return binary_concrete_log_prob(y, logits, 0.5, backend="reference")


LOGIT_OF_LAST = float(torch.tensor(LAST, dtype=torch.float64).logit())

# (function, its arguments, by which two of them it is differentiated, the derivative): each has a bound at its value.
TIES: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], tuple[int, int], float]] = {
    "softplus of a logit of 0": (log_prob("power"), (0.3, 0.0, 2.0), (2, 1), -1 / 8),
    "u = 1": (transform("spike_rational"), (0.0, 3.0, 1.0), (2, 2), -8 * 2 / 9),
    "a distance of 2^-24 from a singular place": (
        transform("root"), (0.0, 2.0, 0.5 + 2.0**-25), (2, 2), -(2.0**35)
    ),
    "the largest beta": (log_prob("spike_exponential"), (0.5, 0.0, 2.0**50), (0, 2), 1.0),
    "the smallest beta": (log_prob("spike_exponential"), (0.5, 0.0, 2.0**-50), (0, 2), 1.0),
    "the largest zeta": (log_prob("spike_rational"), (LAST, 0.0, 3.0), (0, 0), 8.0),
    "the largest y": (concrete, (LAST, LOGIT_OF_LAST / 2), (1, 0), 0.25 * 2.0**53),
}  # fmt: skip


@pytest.mark.parametrize("name", TIES)
def test_second_derivative_at_a_bound(name: str) -> None:
    function, values, (first, second), exact = TIES[name]
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in values]
    (slope,) = torch.autograd.grad(function(*leaves), leaves[first], create_graph=True)
    (result,) = torch.autograd.grad(slope, leaves[second])
    assert result.item() == pytest.approx(exact, rel=1e-9)
