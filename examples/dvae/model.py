"""A convolutional discrete VAE for 28 x 28 binary images: a 4 x 4 grid of discrete codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class DiscreteVAE(nn.Module):
    """Encoder and decoder; the sampler between them belongs to the training loop.

    encode: images [B, 1, 28, 28] -> logits [B, channels, 4, 4] of the posterior: of `channels` categories or bits.
    decode: codes [B, channels, 4, 4], exact or relaxed -> Bernoulli logits [B, 1, 28, 28] of the pixels.
    """

    def __init__(self, channels: int, width: int = 16):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # 14 x 14
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 4, stride=2, padding=1),  # 7 x 7
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1),  # 4 x 4
            ResidualBlock(4 * width),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, channels, 1),
        )
        self.decode = nn.Sequential(
            nn.Conv2d(channels, 4 * width, 1),  # the codebook: one vector per category or bit
            ResidualBlock(4 * width),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 4 * width, 3, stride=2, padding=1),  # 7 x 7
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, width, 4, stride=2, padding=1),  # 14 x 14
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),  # 28 x 28
        )
        # faster convolutions on CPU; torch's annotations lack this overload
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
