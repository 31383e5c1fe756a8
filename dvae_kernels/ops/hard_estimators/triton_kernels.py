"""ReinMax and Gumbel-Rao in Triton. A row that fits on chip is read once and written once; a wider one is walked again
for every sum that it needs first, and Gumbel-Rao's noise is drawn twice.

Rows are tiles [ROWS, BLOCK_K]; values are float32, float64 for float64 tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._indices import NAN
from dvae_kernels._triton.config import launch_rows, tiling
from dvae_kernels._triton.numerics import log2
from dvae_kernels._triton.philox import bits_to_exponential, row_bits, row_word
from dvae_kernels._triton.rows import copy_back, launch_view, view_tensors
from dvae_kernels._triton.scalars import scalar_tensor, temperature
from dvae_kernels._triton.softmax import exp, inverse_or_zero, online_mean, online_sum, or_zero, row_sum, running_max
from dvae_kernels._triton.tiles import load_tile, row_tile, store_tile
from dvae_kernels.ops.hard_estimators.schemas import new_dlogits

_NAN = tl.constexpr(NAN)
# How many times the registers of a plain softmax Gumbel-Rao needs for each element.
_GUMBEL_RAO_REGISTERS = 2


@triton.jit
def _is_own(index, start, BLOCK_K: tl.constexpr):
    """Where the one-hot sample is one: [ROWS, BLOCK_K]."""
    return start + tl.arange(0, BLOCK_K)[None, :] == index


@triton.jit
def _reinmax_bwd_kernel(
    x_ptr, grad_ptr, dx_ptr, index_ptr, tau_ptr, tau_value, rows, K, inner,
    x_so, x_sk, x_si, g_so, g_sk, g_si, d_so, d_sk, d_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    g_rows = grad_ptr + outer_index * g_so + inner_index * g_si
    d_rows = dx_ptr + outer_index * d_so + inner_index * d_si
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    index = tl.load(index_ptr + row, mask=mask, other=-1)
    own_grad = tl.load(g_rows + index * g_sk, mask=mask & (index >= 0) & (index < K), other=0.0).to(ACC)
    index = index.to(tl.int32)
    # sums of softmax(logits), and of softmax(logits / tau) for every tau: finite times zero
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    total = tl.zeros([ROWS, 1], ACC)
    mean = tl.zeros([ROWS, 1], ACC)
    warm_total = tl.zeros([ROWS, 1], ACC)
    warm_mean = tl.zeros([ROWS, 1], ACC)
    if TILES == 1:
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        g = load_tile(g_rows, 0, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        x -= or_zero(tl.max(x, axis=1, keep_dims=True))
        w = exp(x, 1.0, ACC)
        warm = exp(x, inverse, ACC)
        norm = inverse_or_zero(row_sum(w))
        warm_norm = inverse_or_zero(row_sum(warm))
        mean = row_sum(w * g) * norm
        warm_mean = row_sum(warm * g) * warm_norm
        dx = _reinmax(w * norm, warm * warm_norm, _is_own(index, 0, BLOCK_K), g, mean, (warm_mean + own_grad) * 0.5)
        dx = tl.where(tau == 0, 0.0, dx + 0.0 * inverse)
        store_tile(d_rows, 0, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            new_top = running_max(top, x)
            x -= or_zero(new_top)
            lag = top - or_zero(new_top)
            total, mean = online_mean(total, mean, x, g, lag, 1.0, ACC)
            warm_total, warm_mean = online_mean(warm_total, warm_mean, x, g, lag, inverse, ACC)
            top = new_top
        norm = inverse_or_zero(total)
        warm_norm = inverse_or_zero(warm_total)
        mean *= norm
        mixed_mean = (warm_mean * warm_norm + own_grad) * 0.5
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            x -= or_zero(top)
            own = _is_own(index, start, BLOCK_K)
            dx = _reinmax(exp(x, 1.0, ACC) * norm, exp(x, inverse, ACC) * warm_norm, own, g, mean, mixed_mean)
            dx = tl.where(tau == 0, 0.0, dx + 0.0 * inverse)
            store_tile(d_rows, start, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)


@triton.jit
def _reinmax(pi, warm, own, g, mean, mixed_mean):
    """2 J_((warm + D) / 2) g - J_pi g / 2, with the means of g under pi and under (warm + D) / 2."""
    return tl.where(own, warm + 1.0, warm) * (g - mixed_mean) - 0.5 * pi * (g - mean)


@triton.jit
def _weight(noise, inverse_own_noise, deficit, inverse):
    """exp((s_j - s_i) / tau) = (1 + E_j 2^deficit / E_i)^(-1 / tau), deficit = -log2 softmax(logits).

    Beyond 2^87 the one is lost, and the power is taken apart from the logarithm, which would overflow.
    """
    ratio = noise * inverse_own_noise
    bits = log2(ratio * tl.exp2(tl.minimum(deficit, 87.0)) + 1.0) + tl.maximum(deficit - 87.0, 0.0)
    return tl.exp2(-bits * inverse)


@triton.jit(do_not_specialize=["row_offset"])
def _gumbel_rao_bwd_kernel(
    x_ptr, grad_ptr, dx_ptr, sums_ptr, key_ptr, index_ptr, tau_ptr, tau_value, row_offset, rows, K, inner,
    x_so, x_sk, x_si, g_so, g_sk, g_si, d_so, d_sk, d_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr, DRAWS: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    g_rows = grad_ptr + outer_index * g_so + inner_index * g_si
    d_rows = dx_ptr + outer_index * d_so + inner_index * d_si
    stream_row = row.to(tl.uint32) + row_offset.to(tl.uint32)
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    index = tl.load(index_ptr + row, mask=mask, other=-1).to(tl.int32)
    # minimum and maximum would lose a NaN among the logits
    scale = tl.where(index == _NAN, float("nan"), inverse / DRAWS)
    if TILES == 1:
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        g = load_tile(g_rows, 0, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        own = _is_own(index, 0, BLOCK_K)
        x -= or_zero(tl.max(x, axis=1, keep_dims=True))
        total = row_sum(exp(x, 1.0, ACC))
        deficit = log2(tl.where(total == 0, 1.0, total)) - x * 1.4426950408889634
        result = tl.zeros([ROWS, BLOCK_K], ACC)
        for draw in range(1, DRAWS + 1):
            noise = bits_to_exponential(row_bits(key_ptr, stream_row, 0, draw, ROWS, BLOCK_K), ACC)
            own_noise = row_sum(tl.where(own, noise, 0.0))
            w = tl.where(own, 1.0, _weight(noise, 1.0 / own_noise, deficit, inverse))
            norm = inverse_or_zero(row_sum(w))
            mean = row_sum(w * g) * norm
            result += w * norm * (g - mean)
        dx = tl.where(tau == 0, 0.0, result * scale)
        store_tile(d_rows, 0, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
    else:
        top = tl.full([ROWS, 1], float("-inf"), ACC)
        total = tl.zeros([ROWS, 1], ACC)
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            top, total = online_sum(top, total, x, 1.0, ACC)
        log_total = log2(tl.where(total == 0, 1.0, total))
        # [rows, draws, 2]: 1 / sum w, and the mean of g
        row_sums = sums_ptr + row.to(tl.int64) * (2 * DRAWS)
        for draw in range(1, DRAWS + 1):
            own_noise = bits_to_exponential(row_word(key_ptr, stream_row, index, draw, ROWS), ACC)
            total = tl.zeros([ROWS, 1], ACC)
            mean = tl.zeros([ROWS, 1], ACC)
            for start in range(0, TILES * BLOCK_K, BLOCK_K):
                x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                noise = bits_to_exponential(row_bits(key_ptr, stream_row, start, draw, ROWS, BLOCK_K), ACC)
                deficit = log_total - (x - or_zero(top)) * 1.4426950408889634
                w = _weight(noise, 1.0 / own_noise, deficit, inverse)
                w = tl.where(_is_own(index, start, BLOCK_K), 1.0, w)
                total += row_sum(w)
                mean += row_sum(w * g)
            norm = inverse_or_zero(total)
            tl.store(row_sums + 2 * (draw - 1), norm, mask=mask)
            tl.store(row_sums + 2 * (draw - 1) + 1, mean * norm, mask=mask)
        tl.debug_barrier()  # other threads read them
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            g = load_tile(g_rows, start, g_sk, mask, K, 0.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            deficit = log_total - (x - or_zero(top)) * 1.4426950408889634
            own = _is_own(index, start, BLOCK_K)
            result = tl.zeros([ROWS, BLOCK_K], ACC)
            for draw in range(1, DRAWS + 1):
                own_noise = bits_to_exponential(row_word(key_ptr, stream_row, index, draw, ROWS), ACC)
                noise = bits_to_exponential(row_bits(key_ptr, stream_row, start, draw, ROWS, BLOCK_K), ACC)
                w = tl.where(own, 1.0, _weight(noise, 1.0 / own_noise, deficit, inverse))
                norm = tl.load(row_sums + 2 * (draw - 1), mask=mask, other=0.0)
                mean = tl.load(row_sums + 2 * (draw - 1) + 1, mask=mask, other=0.0)
                result += w * norm * (g - mean)
            dx = tl.where(tau == 0, 0.0, result * scale)
            store_tile(d_rows, start, d_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)


def reinmax_bwd(grad: Tensor, logits: Tensor, index: Tensor, tau: Tensor | None, tau_value: float, dim: int) -> Tensor:
    dlogits = new_dlogits(logits)
    args = (index.contiguous(), scalar_tensor(logits, tau, tau_value), tau_value)
    launch_rows(_reinmax_bwd_kernel, dim, [logits, grad], [dlogits], *args)
    return dlogits


def gumbel_rao_bwd(
    grad: Tensor, logits: Tensor, key: Tensor, index: Tensor, tau: Tensor | None, tau_value: float, dim: int,
    draws: int, row_offset: int,
) -> Tensor:  # fmt: skip
    dlogits = new_dlogits(logits)
    if logits.numel() == 0:
        return dlogits
    view, tensors = view_tensors(dim, [logits, grad], [dlogits])
    programs, options = tiling(view, logits, _GUMBEL_RAO_REGISTERS)
    sums = None
    if options["TILES"] > 1:
        sums = logits.new_empty((view.rows, draws, 2), dtype=compute_dtype(logits.dtype))
    args = (sums, key.contiguous(), index.contiguous(), scalar_tensor(logits, tau, tau_value), tau_value, row_offset)
    launch_view(_gumbel_rao_bwd_kernel, view, programs, options | {"DRAWS": draws}, *tensors, *args)
    copy_back([dlogits], tensors[2:])
    return dlogits
