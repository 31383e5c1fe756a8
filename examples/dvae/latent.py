"""The latents of the demo, behind one interface: a 4 x 4 grid of categories, or of binary vectors of as many nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dvae_kernels import SMOOTHING_KINDS, binary_concrete, gumbel_softmax, nn, smoothing_transform
from dvae_kernels.losses import bernoulli_kl, categorical_kl
from dvae_kernels.nn import Schedule

GRID = 4
BITS = 4  # at each place, or one of
CODES = 2**BITS
LATENTS = ("gumbel", *(f"smoothing:{kind}" for kind in SMOOTHING_KINDS))


class Latent(nn.latents.Latent, Protocol):
    """A latent of the demo. Samples have the shape of the logits, [B, channels, 4, 4], divergences are [B, 4, 4]; the
    schedule is read as a host number, so it stays on the CPU."""

    channels: int
    op: str  # the function that draws the relaxed samples
    exact_name: str
    peer_name: str  # who else can do what `op` does

    @property
    def description(self) -> str: ...

    def peer(self, logits: Tensor) -> Tensor:
        """A relaxed sample by `peer_name`."""


@dataclass
class Categorical:
    """One of 16 codes at each place, sampled by Gumbel-softmax."""

    schedule: Schedule
    hard: bool
    backend: str | None

    channels = CODES
    op = "gumbel_softmax"
    exact_name = "one-hot codes"
    peer_name = "F.gumbel_softmax"

    @property
    def description(self) -> str:
        return f"4 x 4 codes of {CODES}, {'one-hot codes, straight-through' if self.hard else 'relaxed codes'}"

    def relaxed(self, logits: Tensor) -> Tensor:
        return gumbel_softmax(logits, float(self.schedule), self.hard, dim=1, backend=self.backend)

    def exact(self, logits: Tensor, seed: int, first: int = 0) -> Tensor:
        first_row = first * GRID * GRID
        return gumbel_softmax(logits, hard=True, dim=1, seed=seed, row_offset=first_row, backend=self.backend)

    def prior(self, count: int, generator: torch.Generator) -> Tensor:
        return one_hot(torch.randint(CODES, (count, GRID, GRID), generator=generator))

    def kl(self, logits: Tensor) -> Tensor:
        return categorical_kl(logits, dim=1)

    def codes(self, sample: Tensor) -> Tensor:
        return sample

    def peer(self, logits: Tensor) -> Tensor:
        return F.gumbel_softmax(logits, float(self.schedule), self.hard, dim=1)


@dataclass
class Binary:
    """Four bits at each place, relaxed by a smoothing transformation.

    The divergence is that of the bits. For the spike kinds and the mixtures it makes the bound on relaxed samples a
    true one, since posterior and prior smooth a bit in the same way; `power` and `root` smooth by an amount that
    depends on the posterior, and train on a surrogate. The bound on exact bits, by which all are judged, is true.
    """

    schedule: Schedule
    kind: str
    backend: str | None

    channels = BITS
    op = "smoothing_transform"
    exact_name = "exact bits"
    peer_name = "plain torch"

    @property
    def description(self) -> str:
        start, end = self.schedule.start, self.schedule.end
        return f"4 x 4 codes of {BITS} bits, {self.kind} smoothing with beta from {start:g} to {end:g}"

    def relaxed(self, logits: Tensor) -> Tensor:
        return smoothing_transform(logits, float(self.schedule), self.kind, backend=self.backend)

    def exact(self, logits: Tensor, seed: int, first: int = 0) -> Tensor:
        first_bit = first * logits[0].numel()
        return binary_concrete(logits, hard=True, seed=seed, index_offset=first_bit, backend=self.backend)

    def prior(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(2, (count, BITS, GRID, GRID), generator=generator).float()

    def kl(self, logits: Tensor) -> Tensor:
        return bernoulli_kl(logits).sum(1)

    def codes(self, sample: Tensor) -> Tensor:
        places = 2 ** torch.arange(BITS, device=sample.device)[:, None, None]
        return one_hot((sample.long() * places).sum(1))

    def peer(self, logits: Tensor) -> Tensor:
        return smoothing_transform(logits, float(self.schedule), self.kind, backend="reference")


def one_hot(codes: Tensor) -> Tensor:
    """[B, 4, 4] -> [B, 16, 4, 4]"""
    return F.one_hot(codes, CODES).movedim(-1, 1).float()
