"""The categorical divergence and the concrete density in Triton. A row that fits on chip is read once, and its
gradients are written once; a wider one is walked twice, with running maxima and sums first.

Rows are tiles [ROWS, BLOCK_K]; values are float32, float64 for float64 tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._rng import compute_dtype
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels._triton.config import tiling
from dvae_kernels._triton.philox import log2
from dvae_kernels._triton.rows import Rows, launch, view_as_rows
from dvae_kernels._triton.softmax import exp, inverse_or_zero, or_zero, tau_tensor
from dvae_kernels._triton.tiles import load_tile, row_tile, store_tile


@triton.jit
def _log(x):
    return log2(x) * 0.6931471805599453


@triton.jit
def _larger(top, x):
    """The running maximum with another tile."""
    return tl.maximum(top, tl.max(x, axis=1, keep_dims=True))


@triton.jit
def _sum(x):
    return tl.sum(x, axis=1, keep_dims=True)


@triton.jit
def _term(t, pi, m, ACC: tl.constexpr):
    """m phi(t), phi(t) = e^t t - e^t + 1 and pi = m e^t: near 0 by the series of phi, which loses no digits there."""
    near: tl.constexpr = 0.015625 if ACC == tl.float64 else 0.25
    t = tl.where(pi == 0, -1e30, t)  # where pi is 0, all that is left is m
    square = t * t
    series = t * 0.0011904761904761906 + 0.006944444444444444
    series = series * t + 0.03333333333333333
    series = series * t + 0.125
    series = series * t + 0.3333333333333333
    series = series * t + 0.5
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
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, K_STRIDED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, K_STRIDED, INT64)
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
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
        top = _larger(top, x)
        w = exp(x - or_zero(top), 1.0, ACC)
        total = _sum(w)
        u, m = _uniform(0, K, ROWS, BLOCK_K, ACC)
        if prior_ptr is not None:
            u = load_tile(p_rows, 0, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            u_top = _larger(u_top, u)
            m = exp(u - or_zero(u_top), 1.0, ACC)
            u_total = _sum(m)
            m *= inverse_or_zero(u_total)
        normal = _log(total / tl.where(u_total == 0, 1.0, u_total))
        kl = _sum(_term(_delta(x, top, u, u_top) - normal, w * inverse_or_zero(total), m, ACC))
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            larger = _larger(top, x)
            total = total * exp(top - or_zero(larger), 1.0, ACC) + _sum(exp(x - or_zero(larger), 1.0, ACC))
            top = larger
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
                larger = _larger(u_top, u)
                u_total = u_total * exp(u_top - or_zero(larger), 1.0, ACC) + _sum(exp(u - or_zero(larger), 1.0, ACC))
                u_top = larger
        normal = _log(total / tl.where(u_total == 0, 1.0, u_total))
        norm = inverse_or_zero(total)
        u_norm = inverse_or_zero(u_total)
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            u, m = _uniform(start, K, ROWS, BLOCK_K, ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
                m = exp(u - or_zero(u_top), 1.0, ACC) * u_norm
            pi = exp(x - or_zero(top), 1.0, ACC) * norm
            kl += _sum(_term(_delta(x, top, u, u_top) - normal, pi, m, ACC))
    tl.store(kl_ptr + row, tl.where(total == 0, float("nan"), kl), mask=mask)


@triton.jit
def _categorical_kl_bwd_kernel(
    grad_ptr, x_ptr, prior_ptr, dx_ptr, dprior_ptr, rows, K, inner, x_so, x_sk, x_si, p_so, p_sk, p_si,
    dx_so, dx_sk, dx_si, dp_so, dp_sk, dp_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, K_STRIDED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, K_STRIDED, INT64)
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
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
        top = _larger(top, x)
        w = exp(x - or_zero(top), 1.0, ACC)
        pi = w * inverse_or_zero(_sum(w))
        u = tl.zeros([ROWS, BLOCK_K], ACC)
        if prior_ptr is not None:
            u = load_tile(p_rows, 0, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            u_top = _larger(u_top, u)
        delta = tl.where(pi == 0, 0.0, _delta(x, top, u, u_top))
        mean = _sum(pi * delta)
        dx = tl.where(pi == 0, 0.0, g * pi * (delta - mean))
        store_tile(dx_rows, 0, dx_sk, dx, mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
        if dprior_ptr is not None:
            m = exp(u - or_zero(u_top), 1.0, ACC)
            m *= inverse_or_zero(_sum(m))
            store_tile(dp_rows, 0, dp_sk, g * (m - pi), mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            larger = _larger(top, x)
            lag = or_zero(top) - or_zero(larger)
            shrink = exp(top - or_zero(larger), 1.0, ACC)
            w = exp(x - or_zero(larger), 1.0, ACC)
            top = larger
            u = tl.zeros([ROWS, BLOCK_K], ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
                larger = _larger(u_top, u)
                lag -= or_zero(u_top) - or_zero(larger)
                if dprior_ptr is not None:
                    u_total *= exp(u_top - or_zero(larger), 1.0, ACC)
                    u_total += _sum(exp(u - or_zero(larger), 1.0, ACC))
                u_top = larger
            mean = shrink * (mean + tl.where(total == 0, 0.0, lag * total))
            mean += _sum(tl.where(w == 0, 0.0, w * _delta(x, top, u, u_top)))
            total = total * shrink + _sum(w)
        norm = inverse_or_zero(total)
        u_norm = inverse_or_zero(u_total)
        mean *= norm
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            pi = exp(x - or_zero(top), 1.0, ACC) * norm
            u = tl.zeros([ROWS, BLOCK_K], ACC)
            if prior_ptr is not None:
                u = load_tile(p_rows, start, p_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            dx = tl.where(pi == 0, 0.0, g * pi * (_delta(x, top, u, u_top) - mean))
            store_tile(dx_rows, start, dx_sk, dx, mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
            if dprior_ptr is not None:
                m = exp(u - or_zero(u_top), 1.0, ACC) * u_norm
                store_tile(dp_rows, start, dp_sk, g * (m - pi), mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)


@triton.jit
def _positive(tau_ptr, tau_value, ACC: tl.constexpr):
    """tau, and NaN unless it is a finite number > 0."""
    tau = tl.full([], tau_value, ACC) if tau_ptr is None else tl.load(tau_ptr)
    return tl.where((tau > 0) & (tau < float("inf")), tau, float("nan"))


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
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, K_STRIDED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, K_STRIDED, INT64)
    y_rows = y_ptr + outer_index * y_so + inner_index * y_si
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    tau = _positive(tau_ptr, tau_value, ACC)
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    total = tl.zeros([ROWS, 1], ACC)
    count = tl.zeros([ROWS, 1], ACC)
    # the sum of energies, relative to the top, less log y
    sums = tl.zeros([ROWS, 1], ACC)
    for start in range(0, TILES * BLOCK_K, BLOCK_K):
        y = load_tile(y_rows, start, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
        x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
        y, _ = _clamped(y, ACC)
        log_y = _log(y)
        energy = _energy(x, log_y, tau)
        larger = _larger(top, energy)
        sums += count * (or_zero(top) - or_zero(larger))
        sums += _sum(_where_kept(x, energy - or_zero(larger) - log_y))
        count += _sum(_where_kept(x, 1.0))
        total = total * exp(top - or_zero(larger), 1.0, ACC) + _sum(exp(energy - or_zero(larger), 1.0, ACC))
        top = larger
    density = (count - 1) * _log(tau) + sums - count * _log(total)
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
    grad_ptr, y_ptr, x_ptr, dy_ptr, dx_ptr, dtau_ptr, tau_ptr, tau_value, rows, K, inner, y_so, y_sk, y_si,
    x_so, x_sk, x_si, dy_so, dy_sk, dy_si, dx_so, dx_sk, dx_si,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, K_STRIDED: tl.constexpr,
    INT64: tl.constexpr,
):  # fmt: skip
    row, outer_index, inner_index, mask = row_tile(rows, inner, ROWS, K_STRIDED, INT64)
    y_rows = y_ptr + outer_index * y_so + inner_index * y_si
    x_rows = x_ptr + outer_index * x_so + inner_index * x_si
    dy_rows = dy_ptr + outer_index * dy_so + inner_index * dy_si
    dx_rows = dx_ptr + outer_index * dx_so + inner_index * dx_si
    g = tl.load(grad_ptr + row, mask=mask, other=0.0)
    tau = _positive(tau_ptr, tau_value, ACC)
    top = tl.full([ROWS, 1], float("-inf"), ACC)
    total = tl.zeros([ROWS, 1], ACC)
    count = tl.zeros([ROWS, 1], ACC)
    sums = tl.zeros([ROWS, 1], ACC)  # of log y
    mean = tl.zeros([ROWS, 1], ACC)  # of log y under the softmax of the energies
    if TILES == 1:
        y = load_tile(y_rows, 0, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
        x = load_tile(x_rows, 0, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
        y, clamped = _clamped(y, ACC)
        log_y = _log(y)
        energy = _energy(x, log_y, tau)
        w = exp(energy - or_zero(_larger(top, energy)), 1.0, ACC)
        share = w * inverse_or_zero(_sum(w))
        count = _sum(_where_kept(x, 1.0))
        dy = _y_gradient(g, y, clamped, x, share, count, tau)
        store_tile(dy_rows, 0, dy_sk, dy, mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
        dx = _logit_gradient(g, x, share, count)
        store_tile(dx_rows, 0, dx_sk, dx, mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
        if dtau_ptr is not None:
            sums = _sum(_where_kept(x, log_y))
            mean = _sum(share * log_y)
    else:
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            y = load_tile(y_rows, start, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            y, _ = _clamped(y, ACC)
            log_y = _log(y)
            energy = _energy(x, log_y, tau)
            larger = _larger(top, energy)
            shrink = exp(top - or_zero(larger), 1.0, ACC)
            w = exp(energy - or_zero(larger), 1.0, ACC)
            total = total * shrink + _sum(w)
            count += _sum(_where_kept(x, 1.0))
            if dtau_ptr is not None:
                sums += _sum(_where_kept(x, log_y))
                mean = mean * shrink + _sum(w * log_y)
            top = larger
        norm = inverse_or_zero(total)
        mean *= norm
        for start in range(0, TILES * BLOCK_K, BLOCK_K):
            y = load_tile(y_rows, start, y_sk, mask, K, 1.0, ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            x = load_tile(x_rows, start, x_sk, mask, K, float("-inf"), ACC, ROWS, BLOCK_K, K_STRIDED, INT64)
            y, clamped = _clamped(y, ACC)
            share = exp(_energy(x, _log(y), tau) - or_zero(top), 1.0, ACC) * norm
            dy = _y_gradient(g, y, clamped, x, share, count, tau)
            store_tile(dy_rows, start, dy_sk, dy, mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
            dx = _logit_gradient(g, x, share, count)
            store_tile(dx_rows, start, dx_sk, dx, mask, K, ROWS, BLOCK_K, K_STRIDED, INT64)
    if dtau_ptr is not None:
        dtau = g * ((count - 1) / tau + count * mean - sums)
        tl.store(dtau_ptr + row, tl.where(count == 0, 0.0, dtau), mask=mask)


def categorical_kl_fwd(logits: Tensor, prior: Tensor | None, dim: int) -> Tensor:
    kl = _new_rows(logits, dim)
    if logits.numel() == 0:
        return kl.zero_()
    view = view_as_rows(logits.shape, dim, logits.stride(), (logits if prior is None else prior).stride())
    if view is None:
        return categorical_kl_fwd(logits.contiguous(), None if prior is None else prior.contiguous(), dim)
    _launch(_categorical_kl_fwd_kernel, view, logits, logits, prior, kl)
    return kl


def categorical_kl_bwd(
    grad: Tensor, logits: Tensor, prior: Tensor | None, dim: int, prior_grad: bool
) -> tuple[Tensor, Tensor]:
    dlogits = torch.empty_like(logits)
    dprior = torch.empty_like(logits) if prior_grad else logits.new_empty((0,))
    if logits.numel() == 0:
        return dlogits, dprior
    strides = [t.stride() for t in (logits, logits if prior is None else prior, dlogits)]
    view = view_as_rows(logits.shape, dim, *strides, (dprior if prior_grad else dlogits).stride())
    if view is None:
        copies = categorical_kl_bwd(
            grad, logits.contiguous(), None if prior is None else prior.contiguous(), dim, prior_grad
        )
        return dlogits.copy_(copies[0]), dprior.copy_(copies[1])
    args = (grad.contiguous(), logits, prior, dlogits, dprior if prior_grad else None)
    _launch(_categorical_kl_bwd_kernel, view, logits, *args)
    return dlogits, dprior


def gumbel_softmax_log_prob_fwd(
    y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int
) -> tuple[Tensor, Tensor]:
    density, count = _new_rows(logits, dim), _new_rows(logits, dim)
    if logits.numel() == 0:
        return density.zero_(), count.zero_()
    view = view_as_rows(y.shape, dim, y.stride(), logits.stride())
    if view is None:
        return gumbel_softmax_log_prob_fwd(y.contiguous(), logits.contiguous(), tau, tau_value, dim)
    args = (y, logits, density, count, tau_tensor(logits, tau, tau_value), tau_value)
    _launch(_gumbel_softmax_log_prob_fwd_kernel, view, y, *args)
    return density, count


def gumbel_softmax_log_prob_bwd(
    grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int, tau_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dy, dlogits, dtau_rows = torch.empty_like(y), torch.empty_like(logits), new_tau_rows(logits, dim, tau_grad)
    if logits.numel() == 0:
        return dy, dlogits, dtau_rows
    view = view_as_rows(y.shape, dim, *(t.stride() for t in (y, logits, dy, dlogits)))
    if view is None:
        copies = gumbel_softmax_log_prob_bwd(grad, y.contiguous(), logits.contiguous(), tau, tau_value, dim, tau_grad)
        return dy.copy_(copies[0]), dlogits.copy_(copies[1]), copies[2]
    dtau = dtau_rows if tau_grad else None
    args = (grad.contiguous(), y, logits, dy, dlogits, dtau, tau_tensor(logits, tau, tau_value), tau_value)
    _launch(_gumbel_softmax_log_prob_bwd_kernel, view, y, *args)
    return dy, dlogits, dtau_rows


def _new_rows(logits: Tensor, dim: int) -> Tensor:
    return new_rows(logits, dim, compute_dtype(logits.dtype))


def _launch(kernel: Any, view: Rows, tensor: Tensor, *args: Any) -> None:
    programs, options = tiling(view, tensor)
    strides = (s for triple in view.strides for s in triple)
    launch(kernel, programs, *args, view.rows, view.k, view.inner, *strides, **options)
