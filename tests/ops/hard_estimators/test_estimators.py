"""Bias and variance of every estimator of a hard sample's gradient, against the exact gradient by enumeration.

`pytest -s tests/ops/hard_estimators/test_estimators.py` prints the table that the op's README shows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dvae_kernels import gumbel_softmax
from kit.targets import Target

ROWS = 200_000
SIGMAS = 5.0  # a false alarm in a million for each of a few dozen comparisons, and the samples are fixed
ESTIMATORS: dict[str, dict[str, Any]] = {
    "straight_through": {"estimator": "straight_through"},
    "reinmax": {"estimator": "reinmax"},
    "gumbel, tau = 0.5": {"tau": 0.5},
    "gumbel_rao, tau = 0.5, 10 draws": {"tau": 0.5, "estimator": "gumbel_rao", "draws": 10},
}

# One categorical variable, and f(D) = |D CODES - GOAL|^2, the squared error of a decoded code.
LOGITS = torch.tensor([1.3, -1.5, 0.7], dtype=torch.float64)
CODES = torch.tensor([[-1.0, 0.1], [-0.1, 0.0], [-0.2, -0.75]], dtype=torch.float64)
GOAL = torch.tensor([-0.4, -0.5], dtype=torch.float64)
VERTICES = torch.eye(3, dtype=torch.float64)


def objective(sample: Tensor) -> Tensor:
    return (sample @ CODES.to(sample) - GOAL.to(sample)).square().sum(-1)


def slope(sample: Tensor) -> Tensor:
    return 2 * (sample @ CODES - GOAL) @ CODES.T


def exact() -> Tensor:
    """The gradient of the expectation over the one-hot samples."""
    p = LOGITS.softmax(-1)
    return jacobian(p, objective(VERTICES))


def jacobian(y: Tensor, grad: Tensor) -> Tensor:
    return y * (grad - (y * grad).sum(-1, keepdim=True))


class Measured(NamedTuple):
    mean: Tensor
    deviation: Tensor  # of the mean
    bias: float  # the largest of a component
    variance: float  # of all components together


@cache
def measure(name: str, backend: str, device: str, draws: int | None = None) -> Measured:
    options = {**ESTIMATORS[name], **({} if draws is None else {"draws": draws})}
    logits = LOGITS.to(device, torch.float32).repeat(ROWS, 1).requires_grad_()
    sample = gumbel_softmax(logits, hard=True, seed=2024, backend=backend, **options)
    (grads,) = torch.autograd.grad(objective(sample).sum(), logits)
    grads = grads.double().cpu()
    mean, variance = grads.mean(0), grads.var(0)
    return Measured(mean, (variance / ROWS).sqrt(), (mean - exact()).abs().max().item(), variance.sum().item())


@pytest.fixture(autouse=True)
def enough_samples(backend: Target) -> None:
    if backend.interpreted:
        pytest.skip("too many samples for the interpreter, which the contract holds to the reference's gradients")


def measured(backend: Target) -> dict[str, Measured]:
    return {name: measure(name, backend.backend, backend.device) for name in ESTIMATORS}


def test_bias_and_variance(backend: Target) -> None:
    """ReinMax is unbiased for a quadratic; averaging relaxed samples changes no bias and lowers the variance."""
    results = measured(backend)
    print(f"\n{backend}: largest bias and total variance; exact gradient {[round(x, 4) for x in exact().tolist()]}")
    for name, m in results.items():
        print(f"| {name} | {m.bias:.3f} | {m.variance:.3f} |")
    straight, reinmax, gumbel, rao = results.values()
    noise = max(m.deviation.max().item() for m in results.values())
    assert reinmax.bias < SIGMAS * noise < min(gumbel.bias, rao.bias) / 4
    assert max(gumbel.bias, rao.bias) < 0.7 * straight.bias
    assert rao.variance < 0.98 * reinmax.variance < 0.98 * 0.98 * straight.variance < 0.7 * gumbel.variance
    assert rao.variance < 0.6 * gumbel.variance


def assert_mean(m: Measured, expected: Tensor) -> None:
    assert ((m.mean - expected).abs() <= SIGMAS * m.deviation).all(), f"{m.mean} for {expected}, +- {m.deviation}"


def test_means_are_those_of_the_papers(backend: Target) -> None:
    """By enumeration: straight-through is J_pi of the gradient at the sample; ReinMax is exact for a quadratic."""
    results = measured(backend)
    p = LOGITS.softmax(-1)
    assert_mean(results["straight_through"], p @ jacobian(p, slope(VERTICES)))
    assert_mean(results["reinmax"], exact())


@pytest.mark.parametrize("draws", [1, 3, 10])
def test_gumbel_rao_is_the_conditional_mean_of_straight_through_gumbel(backend: Target, draws: int) -> None:
    """The same expectation; and of independent samples given the hard one, of which 1 / draws of the variance stays."""
    gumbel = measure("gumbel, tau = 0.5", backend.backend, backend.device)
    rao = measure("gumbel_rao, tau = 0.5, 10 draws", backend.backend, backend.device, draws)
    one = measure("gumbel_rao, tau = 0.5, 10 draws", backend.backend, backend.device, 1)
    ten = measure("gumbel_rao, tau = 0.5, 10 draws", backend.backend, backend.device, 10)
    difference = (rao.mean - gumbel.mean).abs()
    assert (difference <= SIGMAS * (rao.deviation.square() + gumbel.deviation.square()).sqrt()).all()
    assert one.variance == pytest.approx(gumbel.variance, rel=0.02)
    within = (one.variance - ten.variance) / 0.9
    assert rao.variance == pytest.approx(one.variance - within * (1 - 1 / draws), rel=0.02)


def test_gumbel_rao_keeps_its_gradient_far_apart_and_at_a_large_tau(backend: Target) -> None:
    """Weights of categories a hundred nats apart, which a large tau brings together again."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, 30) if backend.interpreted else (50, 30)
    logits, g = torch.randn(shape, generator=generator) * 100, torch.randn(shape, generator=generator)

    def gradient(dtype: torch.dtype, target: Target) -> Tensor:
        x = logits.to(target.device, dtype).requires_grad_()
        y = gumbel_softmax(x, 100.0, True, estimator="gumbel_rao", seed=3, backend=target.backend)
        return torch.autograd.grad(y, x, g.to(target.device, dtype))[0].double().cpu()

    right = gradient(torch.float64, Target("reference", "cpu"))
    assert (gradient(torch.float32, backend) - right).abs().max() < 1e-5 * right.abs().max()
