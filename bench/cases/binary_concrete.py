"""binary_concrete and its density against torch.distributions and the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import RelaxedBernoulli

from conftest import REPLAY, Sampler
from dvae_kernels import binary_concrete, binary_concrete_log_prob

TAU = 0.5


def rsample(logits: Tensor) -> Tensor:
    return RelaxedBernoulli(torch.tensor(TAU, device=logits.device), logits=logits, validate_args=False).rsample()


def formula(logits: Tensor) -> Tensor:
    return torch.sigmoid((logits + torch.logit(torch.rand_like(logits))) / TAU)


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_binary_concrete(
    backward: bool, shape: tuple[int, int], device: torch.device, contest: Callable[..., None]
) -> None:
    torch.manual_seed(0)

    def ours(backend: str) -> Sampler:
        return lambda logits: binary_concrete(logits, TAU, backend=backend)

    contest(
        f"binary_concrete {'forward+backward' if backward else 'forward'}", ours, {"formula": formula},
        torch.randn(shape, device=device), eager={"RelaxedBernoulli": rsample}, backward=backward,
    )  # fmt: skip


def log_prob(y: Tensor, logits: Tensor) -> Tensor:
    return RelaxedBernoulli(torch.tensor(TAU, device=y.device), logits=logits, validate_args=False).log_prob(y)


def density(y: Tensor, logits: Tensor) -> Tensor:
    t = TAU * torch.logit(y) - logits
    return torch.log(torch.tensor(TAU)) - t.abs() - 2 * torch.log1p(torch.exp(-t.abs())) - y.log() - torch.log1p(-y)


@pytest.mark.benchmark(timer=REPLAY)
def test_binary_concrete_log_prob(shape: tuple[int, int], device: torch.device, contest: Callable[..., None]) -> None:
    torch.manual_seed(0)

    def ours(backend: str) -> Sampler:
        return lambda y, logits: binary_concrete_log_prob(y, logits, TAU, backend=backend)

    logits = torch.randn(shape, device=device)
    contest("binary_concrete_log_prob forward+backward", ours, {"formula": density}, formula(logits), logits,
            eager={"RelaxedBernoulli": log_prob}, backward=True)  # fmt: skip
