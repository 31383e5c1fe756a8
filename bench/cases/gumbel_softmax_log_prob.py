"""The density of the concrete distribution against torch.distributions and the formula in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import RelaxedOneHotCategorical

from conftest import REPLAY, Sampler
from dvae_kernels import gumbel_softmax, gumbel_softmax_log_prob

TAU = 0.5


def log_prob(y: Tensor, logits: Tensor) -> Tensor:
    tau = torch.tensor(TAU, device=y.device)
    return RelaxedOneHotCategorical(tau, logits=logits, validate_args=False).log_prob(y)


def density(y: Tensor, logits: Tensor) -> Tensor:
    """Maddison et al. 2017, equation 1."""
    k, log_y = y.shape[-1], y.log()
    score = torch.log_softmax(logits - TAU * log_y, -1)
    return (score - log_y).sum(-1) + (math.lgamma(k) + (k - 1) * math.log(TAU))


@pytest.mark.benchmark(timer=REPLAY)
def test_gumbel_softmax_log_prob(shape: tuple[int, int], device: torch.device, contest: Callable[..., None]) -> None:
    torch.manual_seed(0)

    def ours(backend: str) -> Sampler:
        return lambda y, logits: gumbel_softmax_log_prob(y, logits, TAU, backend=backend)

    logits = torch.randn(shape, device=device)
    contest("gumbel_softmax_log_prob forward+backward", ours, {"formula": density},
            gumbel_softmax(logits, TAU), logits, eager={"RelaxedOneHotCategorical": log_prob},
            backward=True)  # fmt: skip
