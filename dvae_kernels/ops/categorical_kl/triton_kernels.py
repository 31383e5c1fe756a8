"""The categorical divergence in Triton. A row that fits on chip is read once, and its gradients are written once;
a wider one is walked twice, with running maxima and sums first.

Rows are tiles [ROWS, BLOCK_K]; values are float32, float64 for float64 tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._triton.config import launch_rows
from dvae_kernels._triton.numerics import horner, log
from dvae_kernels._triton.softmax import exp, inverse_or_zero, online_sum, or_zero, row_sum, running_max
from dvae_kernels._triton.tiles import load_tile, row_tile, store_tile
from dvae_kernels.ops.categorical_kl.schemas import new_divergence, new_gradients


@triton.jit
def _term(t, pi, m, ACC: tl.constexpr):
    """m phi(t), phi(t) = e^t t - e^t + 1 and pi = m e^t: near 0 by the series of phi, which loses no digits there."""
    near: tl.constexpr = 0.015625 if ACC == tl.float64 else 0.25
    t = tl.where(pi == 0, -1e30, t)  # where pi is 0, all that is left is m
    square = t * t
    series = horner(t, (1 / 840, 1 / 144, 1 / 30, 1 / 8, 1 / 3, 1 / 2))
    return tl.where(square < near * near, m * square * series, pi * t + (m - pi))


@triton.jit
def _delta(x, top, u, u_top):
    """log(pi / m) up to a constant of the row, relative to the tops."""
    return (x - or_zero(top)) - (u - or_zero(u_top))


@triton.jit
def _uniform(start, K, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr):
    """(log m up to a constant, m) of the uniform distribution, which is 0 outside."""
    zero = tl.zeros([ROWS, BLOCK_K], ACC)
    col = start + tl.arange(0, BLOCK_K)[None, :]
    return zero, tl.where(col < K, 1.0 / tl.full([ROWS, 1], K, ACC), zero)


@triton.jit
def _categorical_kl_fwd_kernel(
    x_ptr, prior_ptr, kl_ptr, rows, K, inner, x_so, x_sk, x_si, p_so, p_sk, p_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    u_top = tl.zeros([ROWS, 1], ACC)
    total = tl.zeros([ROWS, 1], ACC)
    u_total = tl.full([ROWS, 1], K, ACC)
    kl = tl.zeros([ROWS, 1], ACC)
    if prior_ptr is not None:
        p_rows = prior_ptr + outer_index * p_so + inner_index * p_si
        u_top += float("-inf")
        u_total *= 0
    if TILES == 1:
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        top = running_max(top, x)
        w = exp(x - or_zero(top), 1.0, ACC)
        total = row_sum(w)
        u, m = _uniform(0, K, ROWS, BLOCK_K, ACC)
        if prior_ptr is not None:
            u = load_tile(p_rows, 0, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
            u_top = running_max(u_top, u)
            m = exp(u - or_zero(u_top), 1.0, ACC)
            u_total = row_sum(m)
            m *= inverse_or_zero(u_total)
        normal = log(total / tl.where(u_total == 0, 1.0, u_total))
        kl = row_sum(_term(_delta(x, top, u, u_top) - normal, w * inverse_or_zero(total), m, ACC))
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            top, total = online_sum(top, total, x, 1.0, ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                u_top, u_total = online_sum(u_top, u_total, u, 1.0, ACC)
        normal = log(total / tl.where(u_total == 0, 1.0, u_total))
        norm = inverse_or_zero(total)
        u_norm = inverse_or_zero(u_total)
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            u, m = _uniform(start, K, ROWS, BLOCK_K, ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                m = exp(u - or_zero(u_top), 1.0, ACC) * u_norm
            pi = exp(x - or_zero(top), 1.0, ACC) * norm
            kl += row_sum(_term(_delta(x, top, u, u_top) - normal, pi, m, ACC))
    tl.store(kl_ptr + row, tl.where(total == 0, float("nan"), kl), mask=mask)


@triton.jit
def _categorical_kl_bwd_kernel(
    x_ptr, prior_ptr, dx_ptr, dprior_ptr, grad_ptr, rows, K, inner, x_so, x_sk, x_si, p_so, p_sk, p_si,
    dx_so, dx_sk, dx_si, dp_so, dp_sk, dp_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, INTERLEAVED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, INTERLEAVED, INT64)  # [R, 1]
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    dx_rows = dx_ptr + outer_index * dx_so + inner_index * dx_si
    g = tl.load(grad_ptr + row, mask=mask, other=0.0)
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    u_top = tl.zeros([ROWS, 1], ACC)
    total = tl.zeros([ROWS, 1], ACC)
    u_total = tl.zeros([ROWS, 1], ACC)
    mean = tl.zeros([ROWS, 1], ACC)
    if prior_ptr is not None:
        p_rows = prior_ptr + outer_index * p_so + inner_index * p_si
        u_top += float("-inf")
    if dprior_ptr is not None:
        dp_rows = dprior_ptr + outer_index * dp_so + inner_index * dp_si
    if TILES == 1:
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
        top = running_max(top, x)
        w = exp(x - or_zero(top), 1.0, ACC)
        pi = w * inverse_or_zero(row_sum(w))
        u = tl.zeros([ROWS, BLOCK_K], ACC)
        if prior_ptr is not None:
            u = load_tile(p_rows, 0, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)  # [R, K]
            u_top = running_max(u_top, u)
        delta = tl.where(pi == 0, 0.0, _delta(x, top, u, u_top))
        mean = row_sum(pi * delta)
        dx = tl.where(pi == 0, 0.0, g * pi * (delta - mean))
        store_tile(dx_rows, 0, dx_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
        if dprior_ptr is not None:
            m = exp(u - or_zero(u_top), 1.0, ACC)
            m *= inverse_or_zero(row_sum(m))
            store_tile(dp_rows, 0, dp_sk, g * (m - pi), mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            larger = running_max(top, x)
            lag = or_zero(top) - or_zero(larger)
            shrink = exp(top - or_zero(larger), 1.0, ACC)
            w = exp(x - or_zero(larger), 1.0, ACC)
            top = larger
            u = tl.zeros([ROWS, BLOCK_K], ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
                larger = running_max(u_top, u)
                lag -= or_zero(u_top) - or_zero(larger)
                if dprior_ptr is not None:
                    u_total *= exp(u_top - or_zero(larger), 1.0, ACC)
                    u_total += row_sum(exp(u - or_zero(larger), 1.0, ACC))
                u_top = larger
            mean = shrink * (mean + tl.where(total == 0, 0.0, lag * total))
            mean += row_sum(tl.where(w == 0, 0.0, w * _delta(x, top, u, u_top)))
            total = total * shrink + row_sum(w)
        norm = inverse_or_zero(total)
        u_norm = inverse_or_zero(u_total)
        mean *= norm
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            pi = exp(x - or_zero(top), 1.0, ACC) * norm
            u = tl.zeros([ROWS, BLOCK_K], ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, INTERLEAVED, INT64)
            dx = tl.where(pi == 0, 0.0, g * pi * (_delta(x, top, u, u_top) - mean))
            store_tile(dx_rows, start, dx_sk, dx, mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)
            if dprior_ptr is not None:
                m = exp(u - or_zero(u_top), 1.0, ACC) * u_norm
                store_tile(dp_rows, start, dp_sk, g * (m - pi), mask, K, ROWS, BLOCK_K, INTERLEAVED, INT64)


def categorical_kl_fwd(logits: Tensor, prior: Tensor | None, dim: int) -> Tensor:
    kl = new_divergence(logits, dim)
    if logits.numel() == 0:
        return kl.zero_()
    launch_rows(_categorical_kl_fwd_kernel, dim, [logits, prior], [], kl)
    return kl


def categorical_kl_bwd(
    grad: Tensor, logits: Tensor, prior: Tensor | None, dim: int, prior_grad: bool
) -> tuple[Tensor, Tensor]:
    dlogits, dprior = new_gradients(logits, prior_grad)
    outputs = [dlogits, dprior if prior_grad else None]
    launch_rows(_categorical_kl_bwd_kernel, dim, [logits, prior], outputs, grad.contiguous())
    return dlogits, dprior
