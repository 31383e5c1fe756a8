"""Layouts of a tensor in memory: the storage is larger than the view, and NaN wherever the view is not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

META = torch.device("meta")  # of tensors without memory


def _embed(x: Tensor, order: list[int], step: int, offset: int) -> Tensor:
    """`x` with memory order `order` (slowest first), every `step`-th element, `offset` elements into a storage."""
    strides, size = [0] * x.dim(), step
    for d in reversed(order):
        strides[d] = size
        size *= x.shape[d] * step
    storage = torch.full((offset + size + 64,), torch.nan, dtype=x.dtype, device=x.device)
    view = storage.as_strided(x.shape, strides, offset)
    return view.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "guarded": lambda x: _embed(x, list(range(x.dim())), 1, 64),
    "offset": lambda x: _embed(x, list(range(x.dim())), 1, 1),
    "stepped": lambda x: _embed(x, list(range(x.dim())), 2, 3),
    "transposed": lambda x: _embed(x, list(reversed(range(x.dim()))), 1, 64),
    "rotated": lambda x: _embed(x, [*range(1, x.dim()), 0], 1, 64),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    # stride 0: only for values that repeat, which the case's inputs must see to
    "expanded_first": lambda x: x[:1].clone().expand(x.shape),
    "expanded_second": lambda x: x[:, :1].clone().expand(x.shape),
    "expanded_last": lambda x: x[..., :1].clone().expand(x.shape),
    "expanded_all": lambda x: x.flatten()[0].clone().expand(x.shape),
}


# The part of a tensor that a layout repeats; contract tables make their values by `repeated`.
REPEATS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded_first": lambda x: x[:1],
    "expanded_second": lambda x: x[:, :1],
    "expanded_last": lambda x: x[..., :1],
}


def repeated(x: Tensor, layout: str) -> Tensor:
    """Values of the shape of `x` that `layout` can hold."""
    return REPEATS.get(layout, lambda x: x)(x).expand(x.shape)


def lay_out(x: Tensor, layout: str) -> Tensor:
    view = LAYOUTS[layout](x) if x.numel() else x.clone()
    assert torch.equal(view, x), f"{layout} needs repeated values"
    return view


def storage_bytes(x: Tensor) -> Tensor:
    return torch.tensor([], dtype=torch.uint8, device=x.device).set_(x.untyped_storage()).clone()


# Of inputs and cotangent, for elementwise ops on four dimensions.
ELEMENTWISE_LAYOUTS = (
    ("channels_last", "channels_last"), ("channels_last", "contiguous"), ("contiguous", "transposed"),
    ("guarded", "offset"), ("offset", "guarded"), ("stepped", "expanded_all"), ("rotated", "stepped"),
    ("expanded_first", "contiguous"), ("expanded_last", "contiguous"),
)  # fmt: skip
