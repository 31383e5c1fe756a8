"""Elementwise operations on contiguous tensors: the blocks of dvae_kernels/_elements.py as tiles [BLOCK]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._elements import BLOCK, count_blocks
from dvae_kernels._triton.philox import philox
from dvae_kernels._triton.rows import acc, contiguous_outputs, copy_back, launch

_INT32_MAX = (1 << 31) - 1


@triton.jit
def element_tile(count, shift, BLOCK: tl.constexpr, INT64: tl.constexpr):
    """(element numbers [BLOCK], which of them exist, whether all do)."""
    block = tl.program_id(0)
    if INT64:
        block = block.to(tl.int64)
    first = block * BLOCK - shift
    element = first + tl.arange(0, BLOCK)
    return element, (element >= 0) & (element < count), (first >= 0) & (first + BLOCK <= count)


@triton.jit
def load_elements(ptr, element, exists, whole, fill, ACC: tl.constexpr, EVEN: tl.constexpr):
    """Elements upcast to ACC, `fill` where there are none. A whole tile needs no mask, which would split accesses."""
    if EVEN:
        x = tl.load(ptr + element, mask=exists, other=fill)
    else:
        if whole:
            x = tl.load(ptr + element)
        else:
            x = tl.load(ptr + element, mask=exists, other=fill)
    return x.to(ACC)


@triton.jit
def store_elements(ptr, element, exists, whole, value, EVEN: tl.constexpr):
    """The inverse of load_elements; rounds to the dtype behind ptr."""
    if EVEN:
        tl.store(ptr + element, value, mask=exists)
    else:
        if whole:
            tl.store(ptr + element, value)
        else:
            tl.store(ptr + element, value, mask=exists)


@triton.jit
def element_bits(key_ptr, group, BLOCK: tl.constexpr):
    """The stream's uint32 words [BLOCK] of this program's tile, draw 0. group: counter of the first tile's start."""
    seed = tl.load(key_ptr)
    offset = tl.load(key_ptr + 1).to(tl.uint32)
    first = group.to(tl.uint64) + tl.program_id(0).to(tl.uint64) * (BLOCK // 4)
    counter = first + tl.arange(0, BLOCK // 4).to(tl.uint64)
    zero = tl.zeros([BLOCK // 4], tl.uint32)
    a, b, c, d = philox(seed, counter.to(tl.uint32), (counter >> 32).to(tl.uint32), offset + zero, zero)
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [BLOCK])


def launch_elements(
    kernel: Any,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor | None],
    *args: Any,
    index_offset: int = 0,
    **constants: Any,
) -> None:
    """kernel(*inputs, *outputs, *args, count, shift, group, ...) over the elements of tensors of one shape.

    Tensors that are not contiguous are copied, and outputs among them copied back. The first of each is a tensor.
    """
    first = outputs[0]
    assert first is not None
    count, shift = first.numel(), index_offset % 4
    written = contiguous_outputs(outputs)
    launch(
        kernel, count_blocks(count), *(x if x is None else x.contiguous() for x in inputs), *written, *args,
        count, shift, (index_offset - shift) // 4 % (1 << 62),
        ACC=acc(first.dtype), BLOCK=BLOCK,
        EVEN=count % 16 == 0 and shift == 0, INT64=count > _INT32_MAX - 2 * BLOCK, num_warps=4, **constants,
    )  # fmt: skip
    copy_back(outputs, written)
