"""The inputs of tools/digests.py: values, layouts and sizes.

Names of cases are matched between recordings, so they and the values behind them stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

FP64, FP32, BF16, FP16 = torch.float64, torch.float32, torch.bfloat16, torch.float16

SIZES = (1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 1000, 1031)
SMALL_SIZES = (3, 17, 130)
KINDS = (
    "spike_exponential", "spike_power", "spike_root", "spike_rational", "power", "root", "exponential_mixture",
    "logistic_mixture", "power_mixture",
)  # fmt: skip


class Types(NamedTuple):
    """The dtypes of a call's inputs and of its samples (or codebook), and whether the backend is slow."""

    name: str
    narrow: torch.dtype
    wide: torch.dtype
    small: bool

    @property
    def compute(self) -> torch.dtype:
        return FP64 if self.narrow == FP64 else FP32


def all_types(small: bool) -> list[Types]:
    pairs = {
        "fp64": (FP64, FP64), "fp32": (FP32, FP32), "bf16": (BF16, BF16), "fp16": (FP16, FP16),
        "bf16-fp32": (BF16, FP32), "fp16-fp32": (FP16, FP32),
    }  # fmt: skip
    left_out = ("bf16", "bf16-fp32", "fp16-fp32") if small else ()
    return [Types(name, *pair, small) for name, pair in pairs.items() if name not in left_out]


# Values. Integer arithmetic and divisions by powers of two alone, so that they are the same on every machine.


def words(count: int, seed: int) -> Tensor:
    """Hashed 64-bit integers (the finaliser of SplitMix64, with shifts that keep the sign)."""
    x = torch.arange(1, count + 1, dtype=torch.int64) * -0x61C8864680B583EB + seed * 0x2545F4914F6CDD
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 31)


@lru_cache(64)
def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Sums of three uniform numbers, in float64: a bell of standard deviation 2. Cached: not to be written to."""
    x, mask = words(math.prod(shape), seed), (1 << 21) - 1
    return ((x & mask) + (x >> 21 & mask) + (x >> 42 & mask)).double().mul(2.0**-21).sub(1.5).mul(4).view(shape)


def uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    """Multiples of 2^-20 strictly between 0 and 1."""
    return ((words(math.prod(shape), seed) >> 40 & (1 << 20) - 2) + 1).double().mul(2.0**-20).view(shape)


def simplex(rows: int, columns: int, seed: int) -> Tensor:
    weights = (words(rows * columns, seed) >> 44 & (1 << 16) - 1).view(rows, columns) + 1
    return weights.double() / weights.sum(1, keepdim=True)


def with_special_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, K] with NaN, infinities, masks, ties, huge, tiny and equal values in its first rows."""
    x, k, limits = x.clone(), x.shape[1], torch.finfo(dtype)
    fills: list[tuple[Any, Any]] = [
        (k // 2, torch.nan), (slice(None), -torch.inf), (k - 1, torch.inf), (slice(0, None, 2), -torch.inf),
        (slice(None), 0.5), (slice(None, None, 3), limits.max), (slice(None), limits.tiny / 8),
        (slice(1, None), -torch.inf), (slice(None, None, 2), -0.0), (slice(1, None, 3), -limits.max),
        (slice(0, None, 4), 100.0), (slice(None), limits.max),
    ]  # fmt: skip
    for row, (columns, value) in zip(x, fills):
        row[columns] = value
    return x


def special_elements(x: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.finfo(dtype)
    values = [
        torch.nan, torch.inf, -torch.inf, 0.0, -0.0, limits.max, -limits.max, limits.tiny / 8, -limits.tiny, 17.0,
        -17.0, 88.5, -88.5, 104.0, -104.0, 1e-4, -1e-4, 0.5, 1.0, -1.0,
    ]  # fmt: skip
    x = x.clone()
    x.view(-1)[: len(values)] = torch.tensor(values, dtype=FP64)[: x.numel()]
    return x


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of x in other memory, which is NaN (integers: -7) around them."""
    if layout == "expanded":
        return x[:1].clone().expand(x.shape)
    if layout == "constant":
        return x[..., :1].clone().expand(x.shape)
    order = list(range(x.dim()))
    if layout == "transposed":
        order.reverse()
    elif layout == "rotated":
        order = [*order[1:], 0]
    elif layout == "channels_last":
        order = [0, *order[2:], 1]
    step, offset, gap = {"stepped": (2, 3, 0), "offset": (1, 1, 0), "padded": (1, 0, 3)}.get(layout, (1, 0, 0))
    strides, size = [0] * x.dim(), step
    for d in reversed(order):
        strides[d] = size
        size = size * x.shape[d] + (gap if d == order[-1] else 0)
    memory = torch.full((offset + size + 64,), torch.nan if x.is_floating_point() else -7, dtype=x.dtype)
    return memory.as_strided(x.shape, strides, offset).copy_(x) if x.numel() else x.clone()


# The work: shapes, layouts and values.


class Rows(NamedTuple):
    """Row operations around `dim`; other tensors of the shape are made by `tensor` from values [R, K]."""

    name: str
    types: Types
    shape: tuple[int, ...]
    dim: int
    layout: str
    special: bool
    full: bool  # every temperature, key and offset; else two of them

    @property
    def size(self) -> tuple[int, int]:
        k = self.shape[self.dim]
        return math.prod(self.shape) // k, k

    def tensor(self, values: Tensor, dtype: torch.dtype, layout: str | None = None) -> Tensor:
        rest = self.shape[: self.dim] + self.shape[self.dim + 1 :]
        x = values.reshape(*rest, self.size[1]).movedim(-1, self.dim)
        return laid_out(x.to(dtype), layout or self.layout)

    @property
    def logits(self) -> Tensor:
        x, dtype = normal(self.size, 1), self.types.narrow
        return self.tensor(with_special_rows(x, dtype) if self.special else x, dtype)

    @property
    def sample(self) -> Tensor:
        y = simplex(*self.size, 2)
        if self.special:
            for row, (k, value) in enumerate([(0, 0.0), (0, 1.0), (0, torch.nan), (-1, 0.0), (0, -0.5), (-1, 2.0)]):
                y[row, k] = value
        return self.tensor(y, self.types.wide)

    def grad(self, layout: str | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return self.tensor(normal(self.size, 3), dtype or self.types.wide, layout)

    @property
    def row_grad(self) -> Tensor:
        rest = self.shape[: self.dim] + self.shape[self.dim + 1 :]
        return normal((self.size[0],), 4).view(rest).to(self.types.compute)

    @property
    def index(self) -> Tensor:
        rest = self.shape[: self.dim] + self.shape[self.dim + 1 :]
        index = (words(self.size[0], 5) >> 3 & 0xFFFF) % self.size[1]
        index[-3:-1] = torch.tensor([-1, -2])[: len(index[-3:-1])]
        return index.view(rest)

    @property
    def taus(self) -> list[tuple[str, Tensor | None, float]]:
        def tensor(value: float, dtype: torch.dtype = self.types.compute) -> tuple[str, Tensor, float]:
            return f"tau=[{value}]" + "double" * (dtype != self.types.compute), torch.tensor(value, dtype=dtype), 0.0

        taus = [("tau=0.7", None, 0.7), tensor(0.5)]
        if self.full:
            taus += [tensor(value) for value in (0.0, torch.nan, 1e-40)]
        if self.full and not self.types.small:
            taus += [("tau=1", None, 1.0), ("tau=0", None, 0.0), ("tau=1e-3", None, 1e-3), ("tau=3e30", None, 3e30)]
            taus += [tensor(value) for value in (3e38, -1.0, torch.inf)]
            taus += [tensor(0.9, FP64)] * (self.types.compute != FP64)
        return taus

    @property
    def noises(self) -> list[tuple[str, Tensor, int]]:
        last = (1 << 32) - self.size[0]  # rows are numbered in 32 bits
        pairs = [(0x0123456789ABCDEF, 7), (-1, (5 << 32) + 3), (0, 0), ((1 << 63) - 1, -1), (-(1 << 63), 1 << 31)]
        noises = [(f"key{i}", torch.tensor(pair), (0, 5, 0, last, 1 << 31)[i]) for i, pair in enumerate(pairs)]
        return [*noises, ("stepped key", torch.tensor([3, 0, 4, 0])[::2], 1)] if self.full else noises[:2]

    @property
    def draws(self) -> Iterator[tuple[str, Tensor, int, Tensor | None, float]]:
        """(name, key, row offset, temperature twice): each noise and each temperature at least once."""
        pairs = list(zip(self.noises[:2], self.taus[:2]))
        pairs += [(self.noises[0], tau) for tau in self.taus[2:]] + [(noise, self.taus[0]) for noise in self.noises[2:]]
        for (noise, key, offset), (temperature, tau, value) in pairs:
            yield f"{self.name} {noise} {temperature}", key, offset, tau, value


def rows(types: Types, big: bool = True) -> Iterator[Rows]:
    """Every size and layout of rows. `big`: with wide rows that are split among threads."""

    def make(shape: tuple[int, ...], dim: int, layout: str = "contiguous", special: bool = False, full: bool = False):
        size = "x".join(map(str, shape))
        return Rows(f"{size} dim{dim} {layout}{' special' * special}", types, shape, dim, layout, special, full)

    small = types.small
    for k in SMALL_SIZES if small else SIZES:
        for count in (2,) if small else (0, 1, 2, 17):
            yield make((count, k), 1)
    for k in (33,) if small else (1, 2, 3, 5, 33, 130):
        for count in (5,) if small else (1, 2, 15, 16, 17, 31, 32, 33, 65, 130):
            yield make((count, k), 1, "transposed")
    layouts = ("padded", "offset", "stepped", "rotated", "channels_last", "expanded", "constant")
    if small:
        yield make((3, 7, 2, 3), 1, "stepped")
        yield make((7, 5), 0, "constant")
        yield make((17, 9), 1, special=True, full=True)
        yield make((9, 17), 0, special=True)
    else:
        for layout in layouts:
            for k in (7, 40):
                yield make((3, k, 2, 3), 1, layout)
                yield make((3, 2, k), 2, layout)
                yield make((k, 17), 0, layout)
        for shape, dim in ((17, 33), 1), ((33, 17), 0), ((17, 130), 1):
            yield make(shape, dim, special=True, full=True)
            yield make(shape, dim, "stepped", special=True)
        for shape, dim in (((17, 1031), 1), ((2, 6, 70), 1), ((14, 2), 1), ((13, 1), 1)):
            yield make(shape, dim, special=True)
        yield make((2, 20011), 1)
        if big:
            for shape, dim in (((1, 262144), 1), ((1031, 65), 1), ((2, 65, 1031), 1)):
                yield make(shape, dim)


class Elements(NamedTuple):
    """Elementwise operations."""

    name: str
    types: Types
    shape: tuple[int, ...]
    layout: str
    special: bool
    full: bool

    def tensor(self, values: Tensor, dtype: torch.dtype, layout: str | None = None) -> Tensor:
        return laid_out(values.to(dtype), layout or self.layout)

    @property
    def logits(self) -> Tensor:
        x = normal(self.shape, 1)
        return self.tensor(special_elements(x, self.types.narrow) if self.special else x, self.types.narrow)

    def grad(self, layout: str | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return self.tensor(normal(self.shape, 3), dtype or self.types.wide, layout)

    def unit(self, seed: int, dtype: torch.dtype) -> Tensor:
        """Noise, or relaxed samples: within (0, 1), and beside it where values are special."""
        u = uniform(self.shape, seed)
        if self.special:
            edges = torch.tensor([0.5, 0.5, 0.5, 0, 1, 0.5, torch.nan, -0.1, 1.1, 0, 1, 0.25, torch.inf], dtype=FP64)
            u.view(-1)[: len(edges)] = edges[: u.numel()]
        return self.tensor(u, dtype)

    @property
    def offsets(self) -> list[int]:
        """Of elements, 64-bit words: across 2^32 counters and up to 2^64."""
        count = math.prod(self.shape)
        return [0, 5, *([1, 2, (1 << 34) - 5, (1 << 63) - 4, -(1 << 63) + 2, -count] if self.full else [])]

    taus = Rows.taus

    @property
    def draws(self) -> Iterator[tuple[str, Tensor, int, Tensor | None, float]]:
        key, other, taus = torch.tensor([0x0123456789ABCDEF, 7]), torch.tensor([-1, (5 << 32) + 3]), self.taus
        calls = [(key, 0, taus[0]), (other, 5, taus[1])]
        calls += [(key, 3, tau) for tau in taus[2:]] + [(other, offset, taus[0]) for offset in self.offsets[2:]]
        for noise, offset, (temperature, tau, value) in calls:
            yield f"{self.name} {temperature} offset{offset}", noise, offset, tau, value


def elements(types: Types, thorough: bool = True) -> Iterator[Elements]:
    def make(shape: tuple[int, ...], layout: str = "contiguous", special: bool = False, full: bool = False):
        size = "x".join(map(str, shape))
        return Elements(f"{size} {layout}{' special' * special}", types, shape, layout, special, full)

    counts: tuple[int, ...] = (0, *SIZES, 2047, 2048, 2049, 4099, 20011, 262144)
    if types.small or not thorough:
        counts = (17, 2049) if types.small else (0, 1, 2, 5, 17, 33, 1000, 2049, 4099, 20011)
    for count in counts:
        yield make((count,))
    layouts = ("contiguous", "padded", "offset", "stepped", "transposed", "channels_last", "expanded", "constant")
    for layout in ("stepped",) if types.small else layouts:
        yield make((3, 7, 5), layout)
    yield make((2, 33), special=True, full=True)
    if not types.small:
        yield make((65,), special=True)
        yield make((5, 8, 9), "transposed", special=True)
