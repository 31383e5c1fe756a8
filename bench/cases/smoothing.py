"""smoothing_transform against the textbook formulas, our own reference, and a copy of the logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import REPLAY, Sampler
from dvae_kernels import smoothing_transform

LARGE, REUSED, ODD = [(4096, 4096)], [(1024, 1024)], [(1021, 1023)]
BETA = 8.0


# What a user would write, with the least clamping that keeps the gradients of logits like these finite.


def spike_exponential(logits: Tensor) -> Tensor:
    p, eps = torch.sigmoid(logits), torch.rand_like(logits)
    u = ((eps + p - 1) / p).clamp(min=0)
    return torch.log1p(u * math.expm1(BETA)) / BETA


def power(logits: Tensor) -> Tensor:
    p, eps = torch.sigmoid(logits), torch.rand_like(logits)
    below = (1 - p) * (eps / (1 - p)).clamp(max=1) ** BETA
    above = 1 - p * ((1 - eps) / p).clamp(max=1) ** BETA
    return torch.where(eps < 1 - p, below, above)


def exponential_mixture(logits: Tensor) -> Tensor:
    """The root of a quadratic equation."""
    q, rho, e = torch.sigmoid(logits), torch.rand_like(logits), math.exp(-BETA)
    b = (rho + e * (q - rho)) / (1 - q) - 1
    c = -q * e / (1 - q)
    return -torch.log((-b + torch.sqrt(b * b - 4 * c)) / 2) / BETA


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("formula", [spike_exponential, power, exponential_mixture], ids=lambda f: f.__name__)
def test_smoothing_transform(
    formula: Sampler, backward: bool, shape: tuple[int, int], device: torch.device, contest: Callable[..., None]
) -> None:
    torch.manual_seed(0)
    kind = formula.__name__

    def ours(backend: str) -> Sampler:
        return lambda logits: smoothing_transform(logits, BETA, kind, backend=backend)

    # without gradients, a copy: the time beyond it is what the arithmetic costs
    contest(
        f"{kind} {'forward+backward' if backward else 'forward'}", ours,
        {"formula": formula, "our reference": ours("reference")}, torch.randn(shape, device=device),
        eager={} if backward else {"copy": torch.clone}, backward=backward,
    )  # fmt: skip
