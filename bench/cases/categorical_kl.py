"""categorical_kl against the formula in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import REPLAY, Sampler
from dvae_kernels import categorical_kl


def kl(logits: Tensor) -> Tensor:
    """From the uniform distribution."""
    log_p = torch.log_softmax(logits, -1)
    return (log_p.exp() * (log_p + math.log(logits.shape[-1]))).sum(-1)


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_categorical_kl(
    backward: bool, shape: tuple[int, int], device: torch.device, contest: Callable[..., None]
) -> None:
    torch.manual_seed(0)

    def ours(backend: str) -> Sampler:
        return lambda logits: categorical_kl(logits, backend=backend)

    contest(f"categorical_kl {'forward+backward' if backward else 'forward'}", ours, {"formula": kl},
            torch.randn(shape, device=device), backward=backward)  # fmt: skip
