"""The noise stream of every backend, in plain torch: Philox4x32-10 (Salmon et al., SC 2011).

A key is int64[2] = (seed, offset): the Philox key is the 64-bit seed, the offset (its low 32 bits) a counter word.
Row operations on [outer, K, inner] draw element (row, col) from counter (col >> 2, row, offset, draw), word col & 3,
with row = outer_index * inner_size + inner_index + row_offset. Elementwise operations draw element idx from counter
(idx >> 2 low, idx >> 2 high, offset, draw), word idx & 3, with idx = index_offset + its place in row-major order, a
64-bit number. So a value depends on the logical element alone: never on tile, stride, thread, device or shard.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dvae_kernels._autograd import check_unchanged_in_recomputation
from dvae_kernels._dtypes import compute_dtype

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def make_key(device: torch.device, key: Tensor | None, seed: int | None, generator: torch.Generator | None) -> Tensor:
    """int64[2] on `device` from at most one (validated) source; from torch's default generator without any."""
    if key is not None:
        check_unchanged_in_recomputation("key", key)
        return key
    if seed is not None:
        # torch.full, since torch.tensor copies from the host and breaks CUDA-graph capture
        result = torch.full((2,), as_int64(seed), dtype=torch.int64, device=device)
        result[1:].zero_()
        return result
    return torch.randint(-(1 << 63), (1 << 63) - 1, (2,), dtype=torch.int64, device=device, generator=generator)


def as_int64(value: int) -> int:
    """`value` modulo 2^64, as ops take 64-bit words."""
    if not -(1 << 63) <= value < 1 << 63:  # never where value is traced: 2^64 would not fit the graph
        value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    return value


def philox(
    key: Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, rounds: int = 10
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words (in int64) per counter (c0, c1, c2, c3), each counter word an int64 tensor in [0, 2^32).

    Shapes broadcast. `key` is an int64 scalar tensor, the 64-bit Philox key.
    """
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(rounds):
        # int64 products wrap modulo 2^64, so both halves come out right after masking
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def row_bits(key: Tensor, outer: int, k: int, inner: int, *, row_offset: int = 0, draw: int = 0) -> Tensor:
    """The stream's 32-bit integers (in int64) for a row operation, shape [outer, k, inner]."""

    def arange(n: int) -> Tensor:
        return torch.arange(n, dtype=torch.int64, device=key.device)

    row = (arange(outer) * inner)[:, None, None] + arange(inner) + row_offset  # [outer, 1, inner]
    group = arange((k + 3) // 4)[:, None]  # [k/4, 1]
    words = philox(key[0], group, row, key[1] & _MASK, torch.full_like(key[1], draw))
    words = torch.broadcast_tensors(*words)  # 4 x [outer, k/4, inner]
    return torch.stack(words, dim=2).flatten(1, 2)[:, :k]  # [outer, k, inner]


def element_bits(key: Tensor, count: int, *, index_offset: int = 0, draw: int = 0) -> Tensor:
    """The stream's 32-bit integers (in int64) for elements index_offset .. index_offset + count - 1, shape [count].

    `index_offset` is a 64-bit word, so negative from 2^63 on.
    """
    shift = index_offset % 4
    group = torch.arange((count + shift + 3) // 4, dtype=torch.int64, device=key.device)
    group = (group + (index_offset - shift) // 4) & ((1 << 62) - 1)
    words = philox(key[0], group & _MASK, group >> 32, key[1] & _MASK, torch.full_like(key[1], draw))
    words = torch.broadcast_tensors(*words)  # 4 x [groups]
    return torch.stack(words, dim=1).flatten()[shift : shift + count]


def bits_to_exponential(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard exponential noise E = -log(1 - v), v = (bits + 1/2) / 2^32, in `dtype` (float32 or float64).

    In float32 both ends keep full relative accuracy: a series in v below 1/4, else the logarithm of 1 - v, which is
    formed from the complemented integer.
    """
    v = (bits.to(dtype) + 0.5) * 2.0**-32
    if dtype == torch.float64:
        return -torch.log1p(-v)
    series = torch.full_like(v, 1 / 9)
    for j in range(8, 0, -1):
        series = series * v + 1 / j
    return torch.where(v < 0.25, series * v, -torch.log(((_MASK - bits).to(dtype) + 0.5) * 2.0**-32))


def bits_to_gumbel(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard Gumbel noise G = -log E, always finite, in [-3.14, 22.88]."""
    return -torch.log(bits_to_exponential(bits, dtype))


def gumbel_like(logits: Tensor, key: Tensor, dim: int, *, row_offset: int = 0, draw: int = 0) -> Tensor:
    """Gumbel noise of the stream for every element of `logits` ([..., K at `dim`, ...]), in the compute dtype."""
    return -torch.log(exponential_like(logits, key, dim, row_offset=row_offset, draw=draw))


def exponential_like(logits: Tensor, key: Tensor, dim: int, *, row_offset: int = 0, draw: int = 0) -> Tensor:
    """The same noise before its logarithm: E, where G = -log E."""
    shape = logits.shape
    outer, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    bits = row_bits(key, outer, shape[dim], inner, row_offset=row_offset, draw=draw)
    return bits_to_exponential(bits, compute_dtype(logits.dtype)).reshape(shape)


def bits_to_logistic(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard logistic noise L = logit(v), v = (bits + 1/2) / 2^32, always finite, in [-22.88, 22.88].

    From the exponential noise of both ends, so that both tails keep their relative accuracy.
    """
    return bits_to_exponential(bits, dtype) - bits_to_exponential(_MASK - bits, dtype)


def logistic_like(logits: Tensor, key: Tensor, *, index_offset: int = 0, draw: int = 0) -> Tensor:
    """Logistic noise of the stream for every element of `logits`, in the compute dtype."""
    bits = element_bits(key, logits.numel(), index_offset=index_offset, draw=draw)
    return bits_to_logistic(bits, compute_dtype(logits.dtype)).reshape(logits.shape)


def bits_to_uniform(bits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uniform noise v = (bits + 1/2) / 2^32 and 1 - v, both relatively accurate."""
    return (bits.to(dtype) + 0.5) * 2.0**-32, ((_MASK - bits).to(dtype) + 0.5) * 2.0**-32


def uniform_like(logits: Tensor, key: Tensor, *, index_offset: int = 0, draw: int = 0) -> tuple[Tensor, Tensor]:
    """Uniform noise of the stream for every element of `logits`, in the compute dtype, and its complement."""
    bits = element_bits(key, logits.numel(), index_offset=index_offset, draw=draw).reshape(logits.shape)
    return bits_to_uniform(bits, compute_dtype(logits.dtype))
