"""The backends that the tests run on, each on its device and, for cpp, once per instruction set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from dvae_kernels import _backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Target:
    """A backend on a device; for cpp also the instruction set that its kernels are told to use."""

    backend: str
    device: str
    capability: str | None = None

    def __str__(self) -> str:
        return "-".join(part for part in (self.backend, self.device, self.capability) if part)

    @property
    def interpreted(self) -> bool:
        return self.backend == "triton" and self.device == "cpu"

    @property
    def mark(self) -> str:
        return "gpu" if self.device == "cuda" else "interpret" if self.interpreted else "cpu"

    def why_not(self) -> str:
        if self.device == "cuda" and not torch.cuda.is_available():
            return "torch.cuda.is_available() is False"
        return _backend.why_not(self.backend, self.device)


KERNELS = (
    Target("cpp", "cpu"),
    Target("triton", "cpu"),
    Target("triton", "cuda"),
    Target("cuda", "cuda"),
)
BACKENDS = (Target("reference", "cpu"), *KERNELS)
CAPABILITIES = ("avx512_vnni", "avx512", "avx2", "baseline")
TARGETS = (
    Target("reference", "cpu"),
    *(Target("cpp", "cpu", capability) for capability in CAPABILITIES[1:]),  # VNNI changes nearest_code alone
    *KERNELS[1:],
)


def params(targets: tuple[Target, ...]) -> list[object]:
    return [pytest.param(target, id=str(target), marks=getattr(pytest.mark, target.mark)) for target in targets]


def ready(target: Target) -> Iterator[Target]:
    """Skip with the reason where `target` cannot run; else run the test on it."""
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    if target.capability is None:
        yield target
        return
    cpu_capability = torch.ops.dvae_kernels.cpu_capability
    best = cpu_capability(None)
    try:
        if CAPABILITIES.index(target.capability) < CAPABILITIES.index(best):
            pytest.skip(f"{target}: this CPU has {best} at most")
        assert cpu_capability(target.capability) == target.capability
        yield target
    finally:
        cpu_capability(best)
