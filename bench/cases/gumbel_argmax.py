"""gumbel_argmax against other ways to draw categories from logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import REPLAY, Sampler
from dvae_kernels import gumbel_argmax


def gumbel_softmax_argmax(logits: Tensor) -> Tensor:
    return F.gumbel_softmax(logits).argmax(-1)  # soft: the same index, sooner


def exponential_argmax(logits: Tensor) -> Tensor:
    """argmax(p / E), as vLLM samples tokens."""
    return (torch.softmax(logits, -1) / torch.empty_like(logits).exponential_()).argmax(-1)


def inverse_cdf(logits: Tensor) -> Tensor:
    """One uniform number a row."""
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    u = torch.rand(logits.shape[0], 1, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True).squeeze(1)


def multinomial(logits: Tensor) -> Tensor:
    return torch.multinomial(torch.softmax(logits, -1), 1).squeeze(1)


@pytest.mark.benchmark(timer=REPLAY)
def test_gumbel_argmax(shape: tuple[int, int], device: torch.device, contest: Callable[..., None]) -> None:
    torch.manual_seed(0)

    def ours(backend: str) -> Sampler:
        return lambda logits: gumbel_argmax(logits, backend=backend)

    peers = {"F.gumbel_softmax argmax": gumbel_softmax_argmax, "argmax p/E": exponential_argmax}
    eager = {"inverse CDF": inverse_cdf, "torch.multinomial": multinomial}
    contest("gumbel_argmax", ours, peers, torch.randn(shape, device=device), eager=eager)
