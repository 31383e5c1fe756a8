"""Row operations: how tensors become [outer, K, inner] without copies, and how a kernel is launched over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Below this many contiguous rows, a strided K is as well read row by row.
_MIN_CONTIGUOUS_ROWS = 8
_INT32_MAX = (1 << 31) - 1


class Rows(NamedTuple):
    """Tensors of one shape seen as [outer, k, inner], row = outer_index * inner + inner_index."""

    rows: int
    k: int
    inner: int
    strides: tuple[tuple[int, int, int], ...]  # (outer, k, inner) of every tensor, in elements
    interleaved: bool  # neighbours in memory are rows, not columns: tile over `inner`
    int64: bool  # an offset or a row number needs more than 32 bits


@lru_cache(maxsize=4096)
def view_as_rows(shape: tuple[int, ...], dim: int, *strides: tuple[int, ...]) -> Rows | None:
    """The joint view of tensors of `shape` with these strides (the first decides the tiling); None where the
    dimensions beside `dim` do not collapse to two. `shape` has no zero."""
    groups: list[list[int]] = []  # [size, stride of each tensor]
    for d, size in enumerate(shape):
        if d == dim or size == 1:
            continue
        step = [s[d] for s in strides]
        if groups and groups[-1][1:] == [s * size for s in step]:
            groups[-1] = [groups[-1][0] * size, *step]
        else:
            groups.append([size, *step])
    if len(groups) > 2:
        return None
    k, still = shape[dim], [1] + [0] * len(strides)
    last = groups[-1] if groups else still
    interleaved = 0 < last[1] < strides[0][dim] and last[0] >= _MIN_CONTIGUOUS_ROWS and k > 1
    # a single group is `inner` where tiles run along it, else `outer`, so that inner = 1 drops out of the kernel
    while len(groups) < 2:
        groups.insert(0 if interleaved else len(groups), still)
    (outer, *outer_strides), (inner, *inner_strides) = groups
    rows = outer * inner
    triples = tuple(zip(outer_strides, (s[dim] for s in strides), inner_strides))
    reach = max((outer - 1) * o + (k - 1) * c + (inner - 1) * i for o, c, i in triples)
    # a tile may hold masked rows and columns beyond the end
    int64 = max(reach, rows, k) > _INT32_MAX - (1 << 16)
    return Rows(rows, k, inner, triples, interleaved, int64)


def view_tensors(
    dim: int, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]
) -> tuple[Rows, list[Tensor | None]]:
    """The joint view of inputs and outputs of one shape, and these tensors: copies where they have no view. The first
    is a tensor; one that is None takes its strides."""
    tensors = [*inputs, *outputs]
    first = tensors[0]
    assert first is not None
    view = view_as_rows(first.shape, dim, *((first if x is None else x).stride() for x in tensors))
    if view is None:
        return view_tensors(dim, [x if x is None else x.contiguous() for x in inputs], contiguous_outputs(outputs))
    return view, tensors


def contiguous_outputs(outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Contiguous tensors to write to, for copy_back to copy where they are others."""
    return [y if y is None or y.is_contiguous() else torch.empty_like(y, memory_format=torch.contiguous_format)
            for y in outputs]  # fmt: skip


def copy_back(outputs: Sequence[Tensor | None], written: Sequence[Tensor | None]) -> None:
    for output, y in zip(outputs, written):
        if output is not None and y is not None and y is not output:
            output.copy_(y)


def column_tiles(columns: int, itemsize: int, warps: int, vectors: int = 1) -> dict[str, int]:
    """The constants of a kernel over rows of D columns, with tiles of `vectors` 16-byte pieces a thread."""
    elements = 32 * warps * vectors * 16 // itemsize
    block = min(triton.next_power_of_2(columns), elements)
    return {"ROWS": elements // block, "BLOCK_D": block, "TILES": triton.cdiv(columns, block), "num_warps": warps}


def acc(dtype: torch.dtype) -> tl.dtype:
    """The dtype that kernels compute in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    """Run `kernel` on a grid of `programs`, on the device of its first argument."""
    with _on_device(args[0]):
        kernel[(programs,)](*args, **options)


def launch_view(kernel: Any, view: Rows, programs: int, constants: dict[str, Any], *args: Any) -> None:
    """kernel(*args, rows, K, inner, strides of each tensor, ...) over the rows of `view`."""
    strides = (stride for triple in view.strides for stride in triple)
    launch(kernel, programs, *args, view.rows, view.k, view.inner, *strides, **constants)


def _on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    # switching costs microseconds, and the device is nearly always the current one
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return nullcontext()
