"""gumbel_softmax against torch's, eager and compiled, and against a plain softmax, which has no noise to make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import timing
from conftest import REPLAY, our_backends
from dvae_kernels import gumbel_softmax

LARGE = [(4096, 8192), (65536, 512)]
MODES = ("soft", "hard", "hard forward+backward")


def call(sample: Callable[[Tensor], Tensor], logits: Tensor, grad: Tensor, mode: str) -> timing.Function:
    if mode != "hard forward+backward":
        return lambda: sample(logits)
    leaf = logits.clone().requires_grad_()
    return lambda: torch.autograd.grad(sample(leaf), leaf, grad)


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("mode", MODES)
def test_gumbel_softmax(
    mode: str, shape: tuple[int, int], device: torch.device, quick: bool, compare: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    logits, grad = torch.randn(2, *shape, device=device)
    hard = mode != "soft"
    reused = device.type == "cpu" and shape not in LARGE
    kept = timing.reserve(logits) if reused else None

    samplers: dict[str, Callable[[Tensor], Tensor]] = {
        f"ours ({backend})": lambda x, backend=backend: gumbel_softmax(x, 1.0, hard, backend=backend)
        for backend in our_backends(device)
    }
    samplers["F.gumbel_softmax"] = lambda x: F.gumbel_softmax(x, 1.0, hard)
    if not quick:
        samplers["torch.compile"] = torch.compile(lambda x: F.gumbel_softmax(x, 1.0, hard), dynamic=False)
        if device.type == "cuda" and shape in LARGE and mode == "soft":  # it takes long, and on CPU tunes nothing here
            samplers["max-autotune"] = torch.compile(
                lambda x: F.gumbel_softmax(x, 1.0, hard), dynamic=False, mode="max-autotune-no-cudagraphs"
            )
    samplers["torch.softmax"] = lambda x: torch.softmax(x, -1)
    functions = {label: call(sample, logits, grad, mode) for label, sample in samplers.items()}
    compare(f"{mode} {shape[0]}x{shape[1]}", "reused memory" if reused else "", functions)
    del kept
