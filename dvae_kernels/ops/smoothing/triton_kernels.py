"""Smoothing transformations in Triton: every tensor is read or written once.

A kernel gets the functions of a kind, from triton_kinds.py, as a constant. Values are tiles [BLOCK] in float32, in
float64 for float64 tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._dtypes import new_sample
from dvae_kernels._triton.elements import element_bits, element_tile, launch_elements, load_elements, store_elements
from dvae_kernels._triton.numerics import at_least, at_most, exp, inside_unit, log1p, reciprocal
from dvae_kernels._triton.philox import bits_to_uniform
from dvae_kernels._triton.scalars import scalar_tensor
from dvae_kernels.ops.smoothing import triton_kinds
from dvae_kernels.ops.smoothing.kinds import find_kind
from dvae_kernels.ops.smoothing.schemas import new_density, new_density_gradients, new_gradients


@triton.jit
def _sharpness(beta_ptr, beta_value, element, exists, whole, EACH: tl.constexpr, ACC: tl.constexpr,
               EVEN: tl.constexpr):  # fmt: skip
    """Beta, one number or [BLOCK]: at its nearest in [2^-50, 2^50], where float32 holds its square and its inverse; NaN
    unless finite and > 0."""
    if EACH:
        beta = load_elements(beta_ptr, element, exists, whole, 1.0, ACC, EVEN)
    elif beta_ptr is None:
        beta = tl.full([], beta_value, ACC)
    else:
        beta = tl.load(beta_ptr)
    inside = at_most(at_least(beta, 8.881784197001252e-16), 1125899906842624.0)
    return tl.where((beta > 0) & (beta < float("inf")), inside, float("nan"))


@triton.jit
def _bit(x_ptr, noise_ptr, key_ptr, group, element, exists, whole, ACC: tl.constexpr, BLOCK: tl.constexpr,
         EVEN: tl.constexpr):  # fmt: skip
    """(odds = e^-logit in [2^-126, 2^126], the noise eps, rest = 1 - eps): [BLOCK] each."""
    x = load_elements(x_ptr, element, exists, whole, 0.0, ACC, EVEN)
    limit: tl.constexpr = 708.0 if ACC == tl.float64 else 87.33654
    odds = exp(at_most(at_least(-x, -limit), limit))
    if noise_ptr is None:
        eps, rest = bits_to_uniform(element_bits(key_ptr, group, BLOCK), ACC)
    else:
        eps = load_elements(noise_ptr, element, exists, whole, 0.5, ACC, EVEN)
        eps = tl.where((eps >= 0) & (eps <= 1), eps, float("nan"))
        rest = 1.0 - eps
    return odds, eps, rest


@triton.jit(do_not_specialize=["group"])
def _smoothing_fwd_kernel(
    x_ptr, noise_ptr, beta_ptr, zeta_ptr, key_ptr, beta_value, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr, KIND: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    beta = _sharpness(beta_ptr, beta_value, element, exists, whole, EACH, ACC, EVEN)
    odds, eps, rest = _bit(x_ptr, noise_ptr, key_ptr, group, element, exists, whole, ACC, BLOCK, EVEN)
    zeta, _, _, _ = KIND(odds, eps, rest, beta)
    store_elements(zeta_ptr, element, exists, whole, zeta, EVEN)


@triton.jit(do_not_specialize=["group"])
def _smoothing_bwd_kernel(
    grad_ptr, x_ptr, noise_ptr, beta_ptr, dx_ptr, dbeta_ptr, dnoise_ptr, key_ptr, beta_value, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr, KIND: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    beta = _sharpness(beta_ptr, beta_value, element, exists, whole, EACH, ACC, EVEN)
    odds, eps, rest = _bit(x_ptr, noise_ptr, key_ptr, group, element, exists, whole, ACC, BLOCK, EVEN)
    _, dlogit, dbeta, dnoise = KIND(odds, eps, rest, beta)
    g = load_elements(grad_ptr, element, exists, whole, 0.0, ACC, EVEN)
    store_elements(dx_ptr, element, exists, whole, g * dlogit, EVEN)
    if dbeta_ptr is not None:
        _store_dbeta(dbeta_ptr, element, exists, whole, g * dbeta, EVEN, EACH)
    if dnoise_ptr is not None:
        # c / p may exceed the largest float; the bound is half of it
        store_elements(dnoise_ptr, element, exists, whole, g * at_most(dnoise, 1.7e38), EVEN)


@triton.jit
def _store_dbeta(dbeta_ptr, element, exists, whole, dbeta, EVEN: tl.constexpr, EACH: tl.constexpr):
    """One gradient an element, or the block's sum."""
    if EACH:
        store_elements(dbeta_ptr, element, exists, whole, dbeta, EVEN)
    else:
        tl.store(dbeta_ptr + tl.program_id(0), tl.sum(dbeta))


@triton.jit
def _density(zeta_ptr, x_ptr, element, exists, whole, beta, DENSITY: tl.constexpr, SPIKE: tl.constexpr,
             WHOLE_LINE: tl.constexpr, ACC: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    """(0, or NaN where an argument is NaN; the log density; its derivatives to zeta, the logit and beta): [BLOCK]."""
    limit: tl.constexpr = 708.0 if ACC == tl.float64 else 87.33654
    zeta = load_elements(zeta_ptr, element, exists, whole, 0.5, ACC, EVEN)
    x = load_elements(x_ptr, element, exists, whole, 0.0, ACC, EVEN)
    invalid = tl.where((zeta == zeta) & (x == x), beta * 0.0, float("nan"))

    size = tl.abs(x)
    odds = exp(-at_most(size, limit))
    larger = reciprocal(1.0 + odds)
    smaller = odds * larger
    log_larger = -log1p(odds)
    positive = x > 0
    p, q = tl.where(positive, larger, smaller), tl.where(positive, smaller, larger)
    log_p = tl.where(positive, log_larger, log_larger - size)
    log_q = tl.where(positive, log_larger - size, log_larger)

    if WHOLE_LINE:
        outside = tl.abs(zeta) == float("inf")
        inside = tl.where(outside, 0.5, zeta)
    else:
        outside = (zeta < 0) | (zeta > 1)
        inside = inside_unit(zeta)
    log_prob, dzeta, dlogit, dbeta = DENSITY(inside, x, p, q, log_p, log_q, beta)
    log_prob = tl.where(outside, -float("inf"), log_prob)
    dzeta = tl.where(inside == zeta, dzeta, 0.0)
    dlogit, dbeta = tl.where(outside, 0.0, dlogit), tl.where(outside, 0.0, dbeta)
    if SPIKE:
        mass = zeta == 0
        log_prob = tl.where(mass, log_q, log_prob)
        dlogit, dbeta = tl.where(mass, -p, dlogit), tl.where(mass, 0.0, dbeta)
    return invalid, log_prob, dzeta, dlogit, dbeta


@triton.jit
def _smoothing_log_prob_fwd_kernel(
    zeta_ptr, x_ptr, beta_ptr, out_ptr, beta_value, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr, DENSITY: tl.constexpr,
    SPIKE: tl.constexpr, WHOLE_LINE: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    beta = _sharpness(beta_ptr, beta_value, element, exists, whole, EACH, ACC, EVEN)
    invalid, log_prob, _, _, _ = _density(
        zeta_ptr, x_ptr, element, exists, whole, beta, DENSITY, SPIKE, WHOLE_LINE, ACC, EVEN
    )
    store_elements(out_ptr, element, exists, whole, log_prob + invalid, EVEN)


@triton.jit
def _smoothing_log_prob_bwd_kernel(
    grad_ptr, zeta_ptr, x_ptr, beta_ptr, dzeta_ptr, dx_ptr, dbeta_ptr, beta_value, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr, DENSITY: tl.constexpr,
    SPIKE: tl.constexpr, WHOLE_LINE: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    beta = _sharpness(beta_ptr, beta_value, element, exists, whole, EACH, ACC, EVEN)
    g = load_elements(grad_ptr, element, exists, whole, 0.0, ACC, EVEN)
    invalid, _, dzeta, dlogit, dbeta = _density(
        zeta_ptr, x_ptr, element, exists, whole, beta, DENSITY, SPIKE, WHOLE_LINE, ACC, EVEN
    )
    g += invalid
    store_elements(dzeta_ptr, element, exists, whole, g * dzeta, EVEN)
    store_elements(dx_ptr, element, exists, whole, g * dlogit, EVEN)
    if dbeta_ptr is not None:
        _store_dbeta(dbeta_ptr, element, exists, whole, g * dbeta, EVEN, EACH)


def smoothing_fwd(
    logits: Tensor, noise: Tensor | None, key: Tensor | None, beta: Tensor | None, beta_value: float, kind: str,
    index_offset: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    find_kind(kind)
    zeta = new_sample(logits, dtype)
    beta, each = _beta(logits, beta, beta_value)
    launch_elements(
        _smoothing_fwd_kernel, [logits, noise, beta], [zeta], _key(noise, key), beta_value,
        index_offset=index_offset, KIND=getattr(triton_kinds, kind), EACH=each,
    )  # fmt: skip
    return zeta


def smoothing_bwd(
    grad: Tensor, logits: Tensor, noise: Tensor | None, key: Tensor | None, beta: Tensor | None, beta_value: float,
    kind: str, index_offset: int, beta_grad: bool, noise_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    find_kind(kind, noise_grad=noise_grad)
    dlogits, dbeta, dnoise = new_gradients(logits, beta, beta_grad, noise_grad)
    beta, each = _beta(logits, beta, beta_value)
    launch_elements(
        _smoothing_bwd_kernel, [grad, logits, noise, beta],
        [dlogits, dbeta if beta_grad else None, dnoise if noise_grad else None], _key(noise, key), beta_value,
        index_offset=index_offset, KIND=getattr(triton_kinds, kind), EACH=each,
    )  # fmt: skip
    return dlogits, dbeta, dnoise


def smoothing_log_prob_fwd(zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str) -> Tensor:
    log_prob = new_density(zeta)
    beta, each = _beta(logits, beta, beta_value)
    launch_elements(
        _smoothing_log_prob_fwd_kernel, [zeta, logits, beta], [log_prob], beta_value, **_density_constants(kind),
        EACH=each,
    )  # fmt: skip
    return log_prob


def smoothing_log_prob_bwd(
    grad: Tensor, zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str, beta_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dzeta, dlogits, dbeta = new_density_gradients(zeta, logits, beta, beta_grad)
    beta, each = _beta(logits, beta, beta_value)
    launch_elements(
        _smoothing_log_prob_bwd_kernel, [grad, zeta, logits, beta],
        [dzeta, dlogits, dbeta if beta_grad else None], beta_value, **_density_constants(kind), EACH=each,
    )  # fmt: skip
    return dzeta, dlogits, dbeta


def _beta(logits: Tensor, beta: Tensor | None, beta_value: float) -> tuple[Tensor | None, bool]:
    """(beta as the kernels read it, whether there is one per element)."""
    return scalar_tensor(logits, beta, beta_value), beta is not None and beta.dim() > 0


def _key(noise: Tensor | None, key: Tensor | None) -> Tensor | None:
    if (noise is None) == (key is None):
        raise ValueError("expected either noise or a key")
    return None if key is None else key.contiguous()


def _density_constants(kind: str) -> dict[str, Any]:
    chosen = find_kind(kind)
    density = getattr(triton_kinds, f"{kind}_density")
    return {"DENSITY": density, "SPIKE": chosen.spike, "WHOLE_LINE": chosen.whole_line}
