"""The binary concrete distribution in Triton: every tensor is read or written once.

Values are float32, float64 for float64 tensors. Samples are taken from e = exp(-|z|), which never overflows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._dtypes import new_sample
from dvae_kernels._triton.elements import element_bits, element_tile, launch_elements, load_elements, store_elements
from dvae_kernels._triton.numerics import inside_unit, log2
from dvae_kernels._triton.philox import bits_to_logistic
from dvae_kernels._triton.scalars import positive_temperature, scalar_tensor, temperature
from dvae_kernels._triton.softmax import exp
from dvae_kernels.ops.binary_concrete.schemas import new_density, new_density_gradients, new_gradients


@triton.jit
def _perturbed(x_ptr, key_ptr, group, element, exists, whole, ACC: tl.constexpr, BLOCK: tl.constexpr,
               EVEN: tl.constexpr):  # fmt: skip
    """logits + logistic noise: [BLOCK]."""
    x = load_elements(x_ptr, element, exists, whole, 0.0, ACC, EVEN)
    return x + bits_to_logistic(element_bits(key_ptr, group, BLOCK), ACC)


@triton.jit(do_not_specialize=["hard", "group"])
def _binary_concrete_fwd_kernel(
    x_ptr, y_ptr, key_ptr, tau_ptr, tau_value, hard, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    p = _perturbed(x_ptr, key_ptr, group, element, exists, whole, ACC, BLOCK, EVEN)  # [R, K]
    if (hard != 0) | (tau == 0):
        y = tl.where(p > 0, 1.0, tl.where(p <= 0, 0.0, p)) + 0.0 * inverse
    else:
        e = exp(-tl.abs(p), inverse, ACC)
        y = tl.where(p > 0, 1.0, e) / (1.0 + e)
    store_elements(y_ptr, element, exists, whole, y, EVEN)


@triton.jit(do_not_specialize=["group"])
def _binary_concrete_bwd_kernel(
    grad_ptr, x_ptr, dx_ptr, key_ptr, tau_ptr, tau_value, dtau_ptr, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    tau, inverse = temperature(tau_ptr, tau_value, ACC)
    p = _perturbed(x_ptr, key_ptr, group, element, exists, whole, ACC, BLOCK, EVEN)  # [R, K]
    g = load_elements(grad_ptr, element, exists, whole, 0.0, ACC, EVEN)
    e = exp(-tl.abs(p), inverse, ACC)
    r = 1.0 / (1.0 + e)
    dx = tl.where(tau == 0, 0.0, g * (e * r * r) * inverse)
    store_elements(dx_ptr, element, exists, whole, dx, EVEN)
    if dtau_ptr is not None:
        # infinite logits have no gradient
        tl.store(dtau_ptr + tl.program_id(0), -tl.sum(dx * tl.where(e == 0, 0.0, p * inverse)))


@triton.jit
def _log(x, ACC: tl.constexpr):
    """Natural logarithm of positive normal x."""
    if ACC == tl.float64:
        return tl.log(x)
    else:
        return log2(x) * 0.6931471805599453


@triton.jit
def _point(y, x, tau, ACC: tl.constexpr):
    """(y inside (0, 1), log y, log(1 - y), t = tau logit(y) - x, exp(-|t|))."""
    inside = inside_unit(y)
    log_y = _log(inside, ACC)
    log_1y = _log(1.0 - inside, ACC)
    t = tau * (log_y - log_1y) - x
    return inside, log_y, log_1y, t, exp(-tl.abs(t), 1.0, ACC)


@triton.jit
def _binary_concrete_log_prob_fwd_kernel(
    y_ptr, x_ptr, out_ptr, tau_ptr, tau_value, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    tau = positive_temperature(tau_ptr, tau_value, ACC)
    y = load_elements(y_ptr, element, exists, whole, 0.5, ACC, EVEN)
    x = load_elements(x_ptr, element, exists, whole, 0.0, ACC, EVEN)
    _, log_y, log_1y, t, e = _point(y, x, tau, ACC)
    result = (tl.log(tau) - tl.abs(t)) - (2.0 * _log(1.0 + e, ACC) + log_y + log_1y)
    store_elements(out_ptr, element, exists, whole, tl.where(y == y, result, y), EVEN)


@triton.jit
def _binary_concrete_log_prob_bwd_kernel(
    grad_ptr, y_ptr, x_ptr, dy_ptr, dx_ptr, tau_ptr, tau_value, dtau_ptr, count, shift, group,
    ACC: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr, INT64: tl.constexpr,
):  # fmt: skip
    element, exists, whole = element_tile(count, shift, BLOCK, INT64)
    tau = positive_temperature(tau_ptr, tau_value, ACC)
    g = load_elements(grad_ptr, element, exists, whole, 0.0, ACC, EVEN)
    y = load_elements(y_ptr, element, exists, whole, 0.5, ACC, EVEN)
    x = load_elements(x_ptr, element, exists, whole, 0.0, ACC, EVEN)
    inside, log_y, log_1y, t, e = _point(y, x, tau, ACC)
    tanh = (1.0 - e) / (1.0 + e)
    tanh = tl.where(y == y, tl.where(t < 0, -tanh, tanh), y)  # of t / 2
    slope = (inside - (1.0 - inside) - tau * tanh) / (inside * (1.0 - inside))
    dy = tl.where(inside == y, g * slope, tl.where(y == y, 0.0 * tau, y))
    store_elements(dy_ptr, element, exists, whole, dy, EVEN)
    store_elements(dx_ptr, element, exists, whole, g * tanh, EVEN)
    if dtau_ptr is not None:
        tl.store(dtau_ptr + tl.program_id(0), tl.sum(g * (1.0 / tau - tanh * (log_y - log_1y))))


def binary_concrete_fwd(
    logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, hard: bool, index_offset: int, dtype: torch.dtype
) -> Tensor:
    y = new_sample(logits, dtype)
    args = (key.contiguous(), scalar_tensor(logits, tau, tau_value), tau_value, int(hard))
    launch_elements(_binary_concrete_fwd_kernel, [logits], [y], *args, index_offset=index_offset)
    return y


def binary_concrete_bwd(
    grad: Tensor, logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, index_offset: int, tau_grad: bool
) -> tuple[Tensor, Tensor]:
    dlogits, dtau_blocks = new_gradients(logits, tau_grad)
    args = (key.contiguous(), scalar_tensor(logits, tau, tau_value), tau_value, dtau_blocks if tau_grad else None)
    launch_elements(_binary_concrete_bwd_kernel, [grad, logits], [dlogits], *args, index_offset=index_offset)
    return dlogits, dtau_blocks


def binary_concrete_log_prob_fwd(y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float) -> Tensor:
    log_prob = new_density(y)
    args = (scalar_tensor(y, tau, tau_value), tau_value)
    launch_elements(_binary_concrete_log_prob_fwd_kernel, [y, logits], [log_prob], *args)
    return log_prob


def binary_concrete_log_prob_bwd(
    grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, tau_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dy, dlogits, dtau_blocks = new_density_gradients(y, logits, tau_grad)
    args = (scalar_tensor(y, tau, tau_value), tau_value, dtau_blocks if tau_grad else None)
    launch_elements(_binary_concrete_log_prob_bwd_kernel, [grad, y, logits], [dy, dlogits], *args)
    return dy, dlogits, dtau_blocks
