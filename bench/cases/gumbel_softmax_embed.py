"""gumbel_softmax_embed, forward and backward, against a sample times the codebook."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import REPLAY, Sampler
from dvae_kernels import gumbel_softmax_embed

WIDTH = 64


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_gumbel_softmax_embed(
    hard: bool, shape: tuple[int, int], device: torch.device, contest: Callable[..., None]
) -> None:
    torch.manual_seed(0)

    def ours(backend: str) -> Sampler:
        return lambda logits, codebook: gumbel_softmax_embed(logits, codebook, hard=hard, backend=backend)[0]

    def product(logits: Tensor, codebook: Tensor) -> Tensor:
        return torch.einsum("nk,kd->nd", F.gumbel_softmax(logits, hard=hard), codebook)

    logits, codebook = torch.randn(shape, device=device), torch.randn(shape[1], WIDTH, device=device)
    contest(f"gumbel_softmax_embed {'hard' if hard else 'soft'} forward+backward", ours,
            {"F.gumbel_softmax, einsum": product}, logits, codebook, backward=True)  # fmt: skip
