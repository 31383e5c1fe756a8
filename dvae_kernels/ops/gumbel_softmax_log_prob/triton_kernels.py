"""The density of Gumbel-softmax samples in Triton. A row that fits on chip is read once, and its gradients are written
once; a wider one is walked twice, with running maxima and sums first.

Rows are tiles [ROWS, BLOCK_K]; values are float32, float64 for float64 tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._triton.config import launch_rows
from dvae_kernels._triton.numerics import log
from dvae_kernels._triton.scalars import positive_temperature, scalar_tensor
from dvae_kernels._triton.softmax import exp, inverse_or_zero, or_zero, row_sum, running_max
from dvae_kernels._triton.tiles import load_tile, row_tile, store_tile
from dvae_kernels.ops.gumbel_softmax_log_prob.schemas import new_density, new_gradients


@triton.jit
def _clamped(y, ACC: tl.constexpr):
    """y, the smallest normal number where it is smaller; NaN stays NaN."""
    smallest: tl.constexpr = 2.2250738585072014e-308 if ACC == tl.float64 else 1.1754943508222875e-38
    return tl.where(y < smallest, smallest, y), y < smallest


@triton.jit
def _energy(x, log_y, tau):
    return tl.where(x == float("-inf"), x, x - tau * log_y)


@triton.jit
def _where_kept(x, value):
    """`value` of the categories that are not excluded, else 0."""
    return tl.where(x == float("-inf"), 0.0, value)


@triton.jit
def _gumbel_softmax_log_prob_fwd_kernel(
    y_ptr, x_ptr, density_ptr, count_ptr, tau_ptr, tau_value, rows, K, inner, y_so, y_sk, y_si, x_so, x_sk, x_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    y_rows = y_ptr + outer_index * y_so + inner_index * y_si
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    tau = positive_temperature(tau_ptr, tau_value, ACC)
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    total = tl.zeros([ROWS, 1], ACC)
    count = tl.zeros([ROWS, 1], ACC)
    # the sum of energies, relative to the top, less log y
    sums = tl.zeros([ROWS, 1], ACC)
    for start in range(0, TILES * BLOCK_K, BLOCK_K):
        y = load_tile(y_rows, start, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        y, _ = _clamped(y, ACC)
        log_y = log(y)
        energy = _energy(x, log_y, tau)
        larger = running_max(top, energy)
        sums += count * (or_zero(top) - or_zero(larger))
        sums += row_sum(_where_kept(x, energy - or_zero(larger) - log_y))
        count += row_sum(_where_kept(x, 1.0))
        total = total * exp(top - or_zero(larger), 1.0, ACC) + row_sum(exp(energy - or_zero(larger), 1.0, ACC))
        top = larger
    density = (count - 1) * log(tau) + sums - count * log(total)
    tl.store(density_ptr + row, tl.where(count == 0, float("nan"), density), mask=mask)
    tl.store(count_ptr + row, count, mask=mask)


@triton.jit
def _y_gradient(g, y, clamped, x, share, count, tau):
    # an excluded category's share is 0, or NaN in a row with NaN
    gradient = tl.where(x == float("-inf"), share, g * (count * tau * share - (tau + 1)) / y)
    return tl.where(clamped, 0.0, gradient)


@triton.jit
def _logit_gradient(g, x, share, count):
    return tl.where(x == float("-inf"), share, g * (1 - count * share))


@triton.jit
def _gumbel_softmax_log_prob_bwd_kernel(
    y_ptr, x_ptr, dy_ptr, dx_ptr, grad_ptr, dtau_ptr, tau_ptr, tau_value, rows, K, inner, y_so, y_sk, y_si,
    x_so, x_sk, x_si, dy_so, dy_sk, dy_si, dx_so, dx_sk, dx_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    y_rows = y_ptr + outer_index * y_so + inner_index * y_si
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    dy_rows = dy_ptr + outer_index * dy_so + inner_index * dy_si
    dx_rows = dx_ptr + outer_index * dx_so + inner_index * dx_si
    g = tl.load(grad_ptr + row, mask=mask, other=0.0)
    tau = positive_temperature(tau_ptr, tau_value, ACC)
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    total = tl.zeros([ROWS, 1], ACC)
    count = tl.zeros([ROWS, 1], ACC)
    sums = tl.zeros([ROWS, 1], ACC)  # of log y
    mean = tl.zeros([ROWS, 1], ACC)  # of log y under the softmax of the energies
    if TILES == 1:
        y = load_tile(y_rows, 0, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        y, clamped = _clamped(y, ACC)
        log_y = log(y)
        energy = _energy(x, log_y, tau)
        w = exp(energy - or_zero(running_max(top, energy)), 1.0, ACC)
        share = w * inverse_or_zero(row_sum(w))
        count = row_sum(_where_kept(x, 1.0))
        dy = _y_gradient(g, y, clamped, x, share, count, tau)
        store_tile(dy_rows, 0, dy_sk, dy, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
        dx = _logit_gradient(g, x, share, count)
        store_tile(dx_rows, 0, dx_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
        if dtau_ptr is not None:
            sums = row_sum(_where_kept(x, log_y))
            mean = row_sum(share * log_y)
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            y = load_tile(y_rows, start, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            y, _ = _clamped(y, ACC)
            log_y = log(y)
            energy = _energy(x, log_y, tau)
            larger = running_max(top, energy)
            shrink = exp(top - or_zero(larger), 1.0, ACC)
            w = exp(energy - or_zero(larger), 1.0, ACC)
            total = total * shrink + row_sum(w)
            count += row_sum(_where_kept(x, 1.0))
            if dtau_ptr is not None:
                sums += row_sum(_where_kept(x, log_y))
                mean = mean * shrink + row_sum(w * log_y)
            top = larger
        norm = inverse_or_zero(total)
        mean *= norm
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            y = load_tile(y_rows, start, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            y, clamped = _clamped(y, ACC)
            share = exp(_energy(x, log(y), tau) - or_zero(top), 1.0, ACC) * norm
            dy = _y_gradient(g, y, clamped, x, share, count, tau)
            store_tile(dy_rows, start, dy_sk, dy, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
            dx = _logit_gradient(g, x, share, count)
            store_tile(dx_rows, start, dx_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
    if dtau_ptr is not None:
        dtau = g * ((count - 1) / tau + count * mean - sums)
        tl.store(dtau_ptr + row, tl.where(count == 0, 0.0, dtau), mask=mask)


def gumbel_softmax_log_prob_fwd(
    y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int
) -> tuple[Tensor, Tensor]:
    density, count = new_density(logits, dim)
    if logits.numel() == 0:
        return density.zero_(), count.zero_()
    args = (density, count, scalar_tensor(logits, tau, tau_value), tau_value)
    launch_rows(_gumbel_softmax_log_prob_fwd_kernel, dim, [y, logits], [], *args)
    return density, count


def gumbel_softmax_log_prob_bwd(
    grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int, tau_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dy, dlogits, dtau_rows = new_gradients(y, logits, dim, tau_grad)
    dtau = dtau_rows if tau_grad else None
    args = (grad.contiguous(), dtau, scalar_tensor(logits, tau, tau_value), tau_value)
    launch_rows(_gumbel_softmax_log_prob_bwd_kernel, dim, [y, logits], [dy, dlogits], *args)
    return dy, dlogits, dtau_rows
