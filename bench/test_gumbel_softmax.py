"""gumbel_softmax against torch's, eager and compiled, and against a plain softmax, which has no noise to make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import timing
from conftest import REPLAY
from dvae_kernels import _backend, gumbel_softmax

# (rows, categories). On CPU, LARGE outputs are fresh pages at every call, the others memory that is used again.
LARGE, REUSED, SMALL = [(4096, 8192), (65536, 512)], [(256, 8192), (1024, 512)], [(64, 32)]
QUICK = [(8, 32), (3, 70)]

MODES = ("soft", "hard", "hard forward+backward")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    shapes = LARGE + SMALL
    if metafunc.config.getoption("--quick"):
        shapes = QUICK
    elif metafunc.config.getoption("--device") == "cpu":
        shapes = LARGE + REUSED + SMALL
    metafunc.parametrize("shape", shapes, ids=lambda s: f"{s[0]}x{s[1]}")


def our_backends(device: torch.device) -> list[str]:
    """The one that is chosen by itself, then the other compiled ones that can run."""
    chosen = _backend.resolve("bench", None, device.type)
    return [chosen, *(b for b in ("cpp", "triton", "cuda") if b != chosen and not _backend.why_not(b, device.type))]


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
