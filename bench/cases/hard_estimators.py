"""The estimators of gumbel_softmax(hard=True), forward and backward, against the papers' formulas in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import REPLAY, Sampler
from dvae_kernels import gumbel_softmax

DRAWS = 10


def draw(logits: Tensor) -> Tensor:
    """A one-hot sample of softmax(logits)."""
    index = (torch.softmax(logits, -1) / torch.empty_like(logits).exponential_()).argmax(-1)
    return F.one_hot(index, logits.shape[-1]).to(logits.dtype)


def straight_through(logits: Tensor) -> Tensor:
    y = torch.softmax(logits, -1)
    return draw(logits.detach()) + (y - y.detach())


def reinmax(logits: Tensor) -> Tensor:
    """Liu et al. 2023, Algorithm 2, at tau = 1."""
    p = torch.softmax(logits, -1)
    sample = draw(logits.detach())
    middle = (p.detach() + sample) / 2
    shifted = torch.softmax((middle.log() - logits).detach() + logits, -1)
    surrogate = 2 * shifted - p / 2
    return sample + (surrogate - surrogate.detach())


def gumbel_rao(logits: Tensor, tau: float = 0.5) -> Tensor:
    """Paulus et al. 2021: the mean over relaxed samples given their argmax."""
    sample = draw(logits.detach())
    chosen = sample.bool()
    total = logits.detach().logsumexp(-1, keepdim=True)
    surrogate = torch.zeros_like(logits)
    for _ in range(DRAWS):
        exponential = torch.empty_like(sample).exponential_()
        own = exponential.masked_fill(~chosen, 0).sum(-1, keepdim=True)
        others = -torch.log(exponential * torch.exp(-logits.detach()) + own * torch.exp(-total))
        perturbed = torch.where(chosen, total - own.log(), others)
        surrogate = surrogate + torch.softmax((logits + (perturbed - logits).detach()) / tau, -1)
    surrogate = surrogate / DRAWS
    return sample + (surrogate - surrogate.detach())


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("peer", [straight_through, reinmax, gumbel_rao], ids=lambda peer: peer.__name__)
def test_estimators(peer: Sampler, shape: tuple[int, int], device: torch.device, contest: Callable[..., None]) -> None:
    torch.manual_seed(0)
    name = peer.__name__
    options = {"tau": 0.5, "draws": DRAWS} if name == "gumbel_rao" else {}

    def ours(backend: str) -> Sampler:
        return lambda logits: gumbel_softmax(logits, hard=True, estimator=name, backend=backend, **options)

    contest(f"{name} forward+backward", ours, {"the paper's formula": peer}, torch.randn(shape, device=device),
            backward=True)  # fmt: skip
