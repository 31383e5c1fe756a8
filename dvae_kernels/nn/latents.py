"""One protocol for the discrete latent of a VAE."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dvae_kernels.nn.schedule import Schedule


class Latent(Protocol):
    """A discrete latent: how the encoder's logits [B, C, ...] become samples and nats, and samples codes.

    The decoder is trained on relaxed samples, and the model is judged by exact ones. All samples have the shape of the
    logits.
    """

    schedule: Schedule  # of the temperature or the sharpness

    def relaxed(self, logits: Tensor) -> Tensor:
        """A sample with a gradient, from torch's default generator."""

    def exact(self, logits: Tensor, seed: int, first: int = 0) -> Tensor:
        """A sample of the discrete posterior. `first` is the number of the first item of the batch: an item gets the
        same sample in any batch."""

    def prior(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` samples of the prior."""

    def kl(self, logits: Tensor) -> Tensor:
        """[B, ...] nats: the divergence of the discrete posterior from the prior."""

    def codes(self, sample: Tensor) -> Tensor:
        """An exact sample as one-hot codes [B, K, ...]."""
