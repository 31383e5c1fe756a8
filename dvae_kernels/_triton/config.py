"""The committed tilings of row kernels: never measured at run time, so equal on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._triton.rows import Rows, acc, copy_back, launch_view, view_tensors


class Config(NamedTuple):
    """How a kernel is cut up: its tile and its warps."""

    rows: int
    block_k: int
    num_warps: int


# (widest BLOCK_K, elements of a tile, warps) of rows held on chip, then the tile of the loop over wider rows.
_CONTIGUOUS = ((2048, 2048, 4), (4096, 4096, 8), (8192, 8192, 8), (16384, 16384, 16))
_CONTIGUOUS_LOOP = Config(1, 4096, 8)
_INTERLEAVED = ((128, 4096, 4), (512, 8192, 8), (2048, 16384, 16))
_INTERLEAVED_LOOP = Config(32, 256, 8)
_SECTOR = 32  # bytes that memory moves at least
_SPLIT_PROGRAMS = 256  # at most, for rows that are split: two for each multiprocessor of a large GPU


@lru_cache(maxsize=4096)
def config(compute: torch.dtype, itemsize: int, k: int, inner: int, interleaved: bool, registers: int = 1) -> Config:
    """The configuration for rows of k columns; `registers`: how many a kernel needs for each value, beside a
    plain softmax."""
    block_k = max(4, triton.next_power_of_2(k))
    table, loop = (_INTERLEAVED, _INTERLEAVED_LOOP) if interleaved else (_CONTIGUOUS, _CONTIGUOUS_LOOP)
    registers *= 2 if compute == torch.float64 else 1
    for widest, elements, warps in table:
        rows = elements // block_k // registers
        if block_k * registers <= widest and (not interleaved or rows * itemsize >= _SECTOR):
            return Config(min(rows, triton.next_power_of_2(inner)) if interleaved else rows, block_k, warps)
    return loop._replace(block_k=loop.block_k // registers)


def tiling(view: Rows, tensor: Tensor, registers: int = 1) -> tuple[int, dict[str, Any]]:
    """The number of programs, and the constants, of a kernel over the rows of `tensor`."""
    tile = config(compute_dtype(tensor.dtype), tensor.itemsize, view.k, view.inner, view.interleaved, registers)
    # a grid beyond 2^31 - 1 would need a tile of one row, which is over 1024 wide, and so terabytes
    if view.interleaved:
        programs = view.rows // view.inner * -(-view.inner // tile.rows)
    else:
        programs = -(-view.rows // tile.rows)
    return programs, {
        "ACC": acc(tensor.dtype),
        "ROWS": tile.rows,
        "BLOCK_K": tile.block_k,
        "TILES": -(-view.k // tile.block_k),
        "INTERLEAVED": view.interleaved,
        "INT64": view.int64,
        "num_warps": tile.num_warps,
    }


def launch_rows(
    kernel: Any, dim: int, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None], *args: Any
) -> None:
    """kernel(*inputs, *outputs, *args, rows, K, inner, strides of each, ...) over the rows of tensors of one shape."""
    first = inputs[0]
    assert first is not None
    if first.numel():
        view, tensors = view_tensors(dim, inputs, outputs)
        launch_view(kernel, view, *tiling(view, first), *tensors, *args)
        copy_back(outputs, tensors[len(inputs) :])


def split_tiling(view: Rows, tensor: Tensor) -> tuple[int, dict[str, Any]]:
    """The same with SPLITS: where few rows are looped over, that many programs share the loop of each."""
    programs, constants = tiling(view, tensor)
    tiles, splits = constants["TILES"], 1
    # the columns of the last split may go on beyond K, but not beyond 32 bits
    if tiles > 1 and constants["ROWS"] == 1 and programs < _SPLIT_PROGRAMS and view.k < 1 << 30:
        # powers of two, or every number of rows would have machine code of its own
        most = 1 << (_SPLIT_PROGRAMS // programs).bit_length() - 1
        tiles = -(-tiles // most)
        splits = -(-constants["TILES"] // tiles)
    return programs * splits, constants | {"TILES": tiles, "SPLITS": splits}
