"""Gumbel-softmax in Triton. A row that fits on chip is read once and written once; a wider one is walked twice,
with a running maximum and sum first, and its noise is drawn twice. Where such rows are few, several programs share one,
each with a split of its columns: one launch reads and stores partial results, the next combines them and writes.

Rows are tiles [ROWS, BLOCK_K]; values are float32, float64 for float64 tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype, new_sample
from dvae_kernels._indices import NAN, NONE
from dvae_kernels._triton.config import launch_rows, split_tiling
from dvae_kernels._triton.philox import bits_to_gumbel, row_bits
from dvae_kernels._triton.rows import Rows, copy_back, launch_view, view_tensors
from dvae_kernels._triton.scalars import scalar_tensor, temperature
from dvae_kernels._triton.softmax import exp, inverse_or_zero, online_mean, online_sum, or_zero, row_sum, running_max
from dvae_kernels._triton.tiles import load_partials, load_tile, row_tile, store_partial, store_tile
from dvae_kernels.ops.gumbel_softmax.schemas import new_dlogits, new_gradients, new_index, new_onehot

_NONE, _NAN = tl.constexpr(NONE), tl.constexpr(NAN)


@triton.jit
def _found(index, top):
    """The index of a row as gumbel_argmax gives it: NONE for only -inf, NAN for +inf (or NaN, see _ranked)."""
    return tl.where(top == float("-inf"), _NONE, tl.where(top == float("inf"), _NAN, index))


@triton.jit
def _one_hot(found, start, inverse, BLOCK_K: tl.constexpr):
    """Zeros for a row of only -inf, NaN for one with NaN or +inf or a bad temperature."""
    col = start + tl.arange(0, BLOCK_K)[None, :]
    zero = tl.where(found == _NAN, float("nan"), 0.0) + 0.0 * inverse
    return tl.where(col == found, zero + 1.0, zero)


@triton.jit
def _ranked(perturbed):
    """NaN as +inf, which marks the row as well and compares."""
    return tl.where(perturbed < float("inf"), perturbed, float("inf"))


@triton.jit
def _first(perturbed, top, start, K, BLOCK_K: tl.constexpr):
    """The lowest column that attains `top`, K if none."""
    col = start + tl.arange(0, BLOCK_K)[None, :]
    return tl.min(tl.where(perturbed == top, col, K), axis=1, keep_dims=True)


@triton.jit
def _perturbed(x_rows, x_sk, key_ptr, stream_row, start, row_mask, K, ACC: tl.constexpr, ROWS: tl.constexpr,
               BLOCK_K: tl.constexpr, INTERLEAVED: tl.constexpr, INT64: tl.constexpr):  # fmt: skip
    """logits + Gumbel noise (none without a key), -inf outside: [ROWS, BLOCK_K]."""
    x = load_tile(x_rows, start, x_sk, row_mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
    if key_ptr is not None:
        x += bits_to_gumbel(row_bits(key_ptr, stream_row, start, 0, ROWS, BLOCK_K), ACC)
    return x


@triton.jit(do_not_specialize=["hard", "row_offset"])
def _gumbel_softmax_fwd_kernel(
    x_ptr, y_ptr, index_ptr, partials_ptr, first_ptr, key_ptr, tau_ptr, tau_value, hard, row_offset, rows, K, inner,
    x_so, x_sk, x_si, y_so, y_sk, y_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr, SPLITS: tl.constexpr, READ: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64, SPLITS)  # [R, 1]
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    if y_ptr is not None:
        y_rows = y_ptr + outer_index * y_so + inner_index * y_si
    stream_row = row.to(tl.uint32) + row_offset.to(tl.uint32)
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    one_hot = (hard != 0) | (tau == 0)
    if TILES == 1 and SPLITS == 1:
        z = _perturbed(x_rows, x_sk, key_ptr, stream_row, 0, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        if index_ptr is not None or one_hot:
            z = _ranked(z)
        top = tl.max(z, axis=1, keep_dims=True)
        if index_ptr is not None or one_hot:
            found = _found(_first(z, top, 0, K, BLOCK_K), top)
            if index_ptr is not None:
                tl.store(index_ptr + row, found.to(tl.int64), mask=mask)
            y = _one_hot(found, 0, inverse, BLOCK_K).to(ACC)
        else:
            y = exp(z - or_zero(top), inverse, ACC)
            total = row_sum(y)
            y = y * inverse_or_zero(total)
        if y_ptr is not None:
            store_tile(y_rows, 0, y_sk, y, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
    else:
        begin = tl.program_id(0) % SPLITS * (TILES * BLOCK_K)
        if index_ptr is not None or one_hot:
            if READ:
                top = tl.full([ROWS, 1], float("-inf"), ACC)
                index = tl.zeros([ROWS, 1], tl.int32) + K
                for i in range(0, TILES * BLOCK_K, BLOCK_K):
                    start = begin + i
                    z = _perturbed(
                        x_rows, x_sk, key_ptr, stream_row, start, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64
                    )
                    z = _ranked(z)
                    tile_top = tl.max(z, axis=1, keep_dims=True)
                    index = tl.where(tile_top > top, _first(z, tile_top, start, K, BLOCK_K), index)
                    top = tl.maximum(top, tile_top)
            else:
                tops = load_partials(partials_ptr, 0, float("-inf"), rows, SPLITS)
                top = tl.max(tops)
                firsts = load_partials(first_ptr, 0, K, rows, SPLITS)
                index = tl.min(tl.where(tops == top, firsts, K))
            if WRITE:
                found = _found(index, top)
                if index_ptr is not None:
                    tl.store(index_ptr + row, found.to(tl.int64), mask=mask & (begin == 0))
                if y_ptr is not None:
                    for i in range(0, TILES * BLOCK_K, BLOCK_K):
                        start = begin + i
                        y = _one_hot(found, start, inverse, BLOCK_K).to(ACC)
                        store_tile(y_rows, start, y_sk, y, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
            else:
                store_partial(partials_ptr, 0, top, row, rows, mask, SPLITS)
                store_partial(first_ptr, 0, index, row, rows, mask, SPLITS)
        else:
            if READ:
                top = tl.full([ROWS, 1], float("-inf"), ACC)
                total = tl.zeros([ROWS, 1], ACC)
                for i in range(0, TILES * BLOCK_K, BLOCK_K):
                    start = begin + i
                    z = _perturbed(
                        x_rows, x_sk, key_ptr, stream_row, start, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64
                    )
                    top, total = online_sum(top, total, z, inverse, ACC)
            else:
                tops = load_partials(partials_ptr, 0, float("-inf"), rows, SPLITS)
                top = tl.max(tops)
                totals = load_partials(partials_ptr, 1, 0.0, rows, SPLITS)
                total = tl.sum(totals * exp(tops - or_zero(top), inverse, ACC))
            if WRITE:
                norm = inverse_or_zero(total)
                for i in range(0, TILES * BLOCK_K, BLOCK_K):
                    start = begin + i
                    z = _perturbed(
                        x_rows, x_sk, key_ptr, stream_row, start, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64
                    )
                    y = exp(z - or_zero(top), inverse, ACC) * norm
                    store_tile(y_rows, start, y_sk, y, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
            else:
                store_partial(partials_ptr, 0, top, row, rows, mask, SPLITS)
                store_partial(partials_ptr, 1, total, row, rows, mask, SPLITS)


@triton.jit
def _gumbel_softmax_bwd_kernel(
    y_ptr, grad_ptr, dx_ptr, tau_ptr, tau_value, rows, K, inner,
    y_so, y_sk, y_si, g_so, g_sk, g_si, d_so, d_sk, d_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    _, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    y_rows = y_ptr + outer_index * y_so + inner_index * y_si
    g_rows = grad_ptr + outer_index * g_so + inner_index * g_si
    d_rows = dx_ptr + outer_index * d_so + inner_index * d_si
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    if TILES == 1:
        y = load_tile(y_rows, 0, y_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        g = load_tile(g_rows, 0, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        # a sample rounded to half precision does not sum to one: its sum keeps <y, grad> a mean
        mean = row_sum(y * g) * inverse_or_zero(row_sum(y))
        dx = tl.where(tau == 0, 0.0, (y * inverse) * (g - mean))
        store_tile(d_rows, 0, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
    else:
        mean = tl.zeros([ROWS, 1], ACC)
        total = tl.zeros([ROWS, 1], ACC)
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            y = load_tile(y_rows, start, y_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            mean += row_sum(y * g)
            total += row_sum(y)
        mean *= inverse_or_zero(total)
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            y = load_tile(y_rows, start, y_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            dx = tl.where(tau == 0, 0.0, (y * inverse) * (g - mean))
            store_tile(d_rows, start, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)


@triton.jit(do_not_specialize=["row_offset"])
def _gumbel_softmax_recompute_bwd_kernel(
    x_ptr, grad_ptr, dx_ptr, dtau_ptr, partials_ptr, key_ptr, tau_ptr, tau_value, row_offset, rows, K, inner,
    x_so, x_sk, x_si, g_so, g_sk, g_si, d_so, d_sk, d_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr, SPLITS: tl.constexpr, READ: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64, SPLITS)  # [R, 1]
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    g_rows = grad_ptr + outer_index * g_so + inner_index * g_si
    d_rows = dx_ptr + outer_index * d_so + inner_index * d_si
    stream_row = row.to(tl.uint32) + row_offset.to(tl.uint32)
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    # with tau = 0 the sample only has to be finite, its gradient is 0
    scale = tl.where(tau == 0, 1.0, inverse)
    dtau = tl.zeros([ROWS, 1], ACC)
    if TILES == 1 and SPLITS == 1:
        z = _perturbed(x_rows, x_sk, key_ptr, stream_row, 0, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        g = load_tile(g_rows, 0, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        z -= or_zero(tl.max(z, axis=1, keep_dims=True))
        w = exp(z, scale, ACC)
        total = row_sum(w)
        norm = inverse_or_zero(total)
        mean = row_sum(w * g) * norm
        dx = tl.where(tau == 0, 0.0, w * (g - mean) * (norm * inverse))
        store_tile(d_rows, 0, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
        if dtau_ptr is not None:
            # log y = z * scale + const, and the rows of dx sum to zero
            dtau = -row_sum(dx * tl.where(w == 0, 0.0, z * scale))
    else:
        begin = tl.program_id(0) % SPLITS * (TILES * BLOCK_K)
        if READ:
            top = tl.full([ROWS, 1], float("-inf"), ACC)
            total = tl.zeros([ROWS, 1], ACC)
            mean = tl.zeros([ROWS, 1], ACC)
            for i in range(0, TILES * BLOCK_K, BLOCK_K):
                start = begin + i
                z = _perturbed(
                    x_rows, x_sk, key_ptr, stream_row, start, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64
                )
                g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                new_top = running_max(top, z)
                lag = top - or_zero(new_top)
                total, mean = online_mean(total, mean, z - or_zero(new_top), g, lag, scale, ACC)
                top = new_top
        else:
            tops = load_partials(partials_ptr, 0, float("-inf"), rows, SPLITS)
            top = tl.max(tops)
            shrink = exp(tops - or_zero(top), scale, ACC)
            totals = load_partials(partials_ptr, 1, 0.0, rows, SPLITS)
            means = load_partials(partials_ptr, 2, 0.0, rows, SPLITS)
            total = tl.sum(totals * shrink)
            mean = tl.sum(means * shrink)
        if WRITE:
            norm = inverse_or_zero(total)
            mean *= norm
            for i in range(0, TILES * BLOCK_K, BLOCK_K):
                start = begin + i
                z = _perturbed(
                    x_rows, x_sk, key_ptr, stream_row, start, mask, K, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64
                )
                g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                z -= or_zero(top)
                w = exp(z, scale, ACC)
                dx = tl.where(tau == 0, 0.0, w * (g - mean) * (norm * inverse))
                store_tile(d_rows, start, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
                if dtau_ptr is not None:
                    dtau -= row_sum(dx * tl.where(w == 0, 0.0, z * scale))
        else:
            store_partial(partials_ptr, 0, top, row, rows, mask, SPLITS)
            store_partial(partials_ptr, 1, total, row, rows, mask, SPLITS)
            store_partial(partials_ptr, 2, mean, row, rows, mask, SPLITS)
    if WRITE and dtau_ptr is not None:
        store_partial(dtau_ptr, 0, dtau, row, rows, mask, SPLITS)


def gumbel_softmax_fwd(
    logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int, hard: bool, row_offset: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    y = new_sample(logits, dtype)
    _sample(logits, key, tau, tau_value, dim, hard, row_offset, y, None)
    return y


def gumbel_argmax(logits: Tensor, key: Tensor, dim: int, row_offset: int) -> Tensor:
    index = new_index(logits, dim)
    _sample(logits, key, None, 1.0, dim, True, row_offset, None, index)
    return index


def gumbel_onehot(logits: Tensor, key: Tensor, dim: int, row_offset: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    y, index = new_onehot(logits, dim, dtype)
    _sample(logits, key, None, 1.0, dim, True, row_offset, y, index)
    return y, index


def _sample(
    logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int, hard: bool, row_offset: int,
    y: Tensor | None, index: Tensor | None,
) -> None:  # fmt: skip
    """Write the sample to `y`, or the index of a hard one to `index`, or both."""
    if logits.numel() == 0:
        if index is not None:
            index.fill_(NONE)
        return
    view, tensors = view_tensors(dim, [logits], [y])
    programs, constants = split_tiling(view, logits)
    partials = _new_partials(logits, view, constants, 2)
    first = None if partials is None else torch.empty_like(partials[0], dtype=torch.int32)
    args = (key.contiguous(), scalar_tensor(logits, tau, tau_value), tau_value, int(hard), row_offset)
    _launch_split(_gumbel_softmax_fwd_kernel, view, programs, constants, *tensors, index, partials, first, *args)
    copy_back([y], tensors[1:])


def gumbel_softmax_bwd(
    grad: Tensor, y: Tensor, tau: Tensor | None, tau_value: float, dim: int, dtype: torch.dtype
) -> Tensor:
    dlogits = new_dlogits(y, dtype)
    temperature_args = (scalar_tensor(y, tau, tau_value), tau_value)
    launch_rows(_gumbel_softmax_bwd_kernel, dim, [y, grad], [dlogits], *temperature_args)
    return dlogits


def gumbel_softmax_recompute_bwd(
    grad: Tensor, logits: Tensor, key: Tensor | None, tau: Tensor | None, tau_value: float, dim: int, row_offset: int,
    tau_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dlogits, dtau_rows = new_gradients(logits, dim, tau_grad)
    if logits.numel() == 0:
        return dlogits, dtau_rows
    view, tensors = view_tensors(dim, [logits, grad], [dlogits])
    programs, constants = split_tiling(view, logits)
    partials = _new_partials(logits, view, constants, 3)
    dtau = None
    if tau_grad:
        dtau = dtau_rows if partials is None else torch.empty_like(partials[0])
    key = None if key is None else key.contiguous()
    args = (dtau, partials, key, scalar_tensor(logits, tau, tau_value), tau_value, row_offset)
    _launch_split(_gumbel_softmax_recompute_bwd_kernel, view, programs, constants, *tensors, *args)
    copy_back([dlogits], tensors[2:])
    if dtau is not None and partials is not None:
        torch.sum(dtau, 1, out=dtau_rows)
    return dlogits, dtau_rows


def _new_partials(logits: Tensor, view: Rows, constants: dict[str, Any], states: int) -> Tensor | None:
    """Uninitialised memory for the partial results of each split, [states, rows, SPLITS], if rows are split."""
    if constants["SPLITS"] == 1:
        return None
    return logits.new_empty((states, view.rows, constants["SPLITS"]), dtype=compute_dtype(logits.dtype))


def _launch_split(kernel: Any, view: Rows, programs: int, constants: dict[str, Any], *args: Any) -> None:
    """All splits of a row are read before one of them is written."""
    for read, write in [(True, True)] if constants["SPLITS"] == 1 else [(True, False), (False, True)]:
        launch_view(kernel, view, programs, constants | {"READ": read, "WRITE": write}, *args)
