"""Keys of the noise stream made of a key."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels import _autograd, _rng, _validate

_MASK = 0xFFFFFFFF
# The fourth counter word of keys. That of noise is the number of a draw, which is below 2^31.
_SPLIT = 0xFFFFFFFF


def split_key(key: Tensor, n: int = 2) -> Tensor:
    """`n` keys whose noise is unrelated to each other's and to that of `key`: one for each layer, step or sample.

    Two calls that are given one key draw the same noise. Plain torch on the key's device: nothing waits for the device,
    and it can be compiled and captured in a CUDA graph.

    Args:
        key: int64[2] = (seed, offset), the offset taken modulo 2^32, on any device. Not changed.
        n: how many, in [1, 2^32).

    Returns:
        int64[n, 2], on the device of the key. Row i depends on the key and on i alone, so more keys begin with the same
        ones. `keys[i]`, or an unpacking of the rows, goes where an op takes `key`.

    Raises:
        TypeError: for a key that is no int64 Tensor, and an n that is no int.
        ValueError: for a key of another shape, n out of range.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011 (Philox4x32-10), with the
    seed as key and (i, 0, offset, 2^32 - 1) as counter: the first two words are the new seed, the third is its offset.
    Claessen, Palka, "Splittable Pseudorandom Number Generators using Cryptographic Hashing", Haskell 2013.

    Example:
        >>> first, second = split_key(torch.tensor([7, 0]))
        >>> logits = torch.zeros(4)
        >>> torch.equal(gumbel_softmax(logits, key=first), gumbel_softmax(logits, key=second))
        False
    """
    op = "split_key"
    _validate.noise_key(op, key)
    _validate.count(op, "n", n)
    _autograd.check_unchanged_in_recomputation("key", key)
    index = torch.arange(n, dtype=torch.int64, device=key.device)
    zero = torch.zeros_like(index)
    low, high, offset, _ = _rng.philox(key[0], index, zero, key[1] & _MASK, zero + _SPLIT)
    return torch.stack([low | (high << 32), offset], dim=1)
