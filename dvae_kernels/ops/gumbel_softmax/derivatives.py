"""The backward ops of Gumbel-softmax as functions that have a derivative themselves, in plain torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvae_kernels import _autograd
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._scalars import scalar_tensor
from dvae_kernels.ops.gumbel_softmax import reference
from dvae_kernels.ops.gumbel_softmax.schemas import GUMBEL_SOFTMAX_BWD, GUMBEL_SOFTMAX_RECOMPUTE_BWD


def sample_bwd(
    grad: Tensor, y: Tensor, tau: Tensor | None, tau_value: float, dim: int, dtype: torch.dtype, backend: str
) -> Tensor:
    """gumbel_softmax_bwd, differentiable in grad and y."""
    return _autograd.apply(SampleBackward, grad, y, tau, _SampleOptions(tau_value, dim, dtype, backend))


def recompute_bwd(
    grad: Tensor, logits: Tensor, key: Tensor | None, tau: Tensor | None, tau_value: float, dim: int, row_offset: int,
    tau_grad: bool, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """gumbel_softmax_recompute_bwd, differentiable in grad, logits and tau."""
    return _autograd.apply(
        RecomputeBackward, grad, logits, tau, key, _RecomputeOptions(tau_value, dim, row_offset, tau_grad, backend)
    )


class _SampleOptions(NamedTuple):
    tau_value: float
    dim: int
    dtype: torch.dtype
    backend: str


class SampleBackward(torch.autograd.Function):
    """The backward op with its own derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, y: Tensor, tau: Tensor | None, options: _SampleOptions) -> Tensor:
        tau_value, dim, dtype, backend = options
        return GUMBEL_SOFTMAX_BWD[backend](grad, y, tau, tau_value, dim, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, y, tau, ctx.options = inputs
        ctx.save_for_backward(grad, y, tau)

    @staticmethod
    def backward(ctx: Any, ddlogits: Tensor) -> tuple[Tensor | None, ...]:
        grad, y, tau = ctx.saved_tensors
        temperature = scalar_tensor(tau, ctx.options.tau_value, y)
        dgrad, dy, _ = reference.double_backward(grad, y, temperature, ctx.options.dim, ddlogits, 0.0)
        return dgrad, dy, None, None


class _RecomputeOptions(NamedTuple):
    tau_value: float
    dim: int
    row_offset: int
    tau_grad: bool
    backend: str


class RecomputeBackward(torch.autograd.Function):
    """The recomputing backward op with its own derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, logits: Tensor, tau: Tensor | None, key: Tensor | None,
                options: _RecomputeOptions) -> tuple[Tensor, Tensor]:  # fmt: skip
        tau_value, dim, row_offset, tau_grad, backend = options
        return GUMBEL_SOFTMAX_RECOMPUTE_BWD[backend](grad, logits, key, tau, tau_value, dim, row_offset, tau_grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        grad, logits, tau, key, ctx.options = inputs
        ctx.save_for_backward(grad, logits, key, tau)

    @staticmethod
    def backward(ctx: Any, ddlogits: Tensor, ddtau_rows: Tensor) -> tuple[Tensor | None, ...]:
        grad, logits, key, tau = ctx.saved_tensors
        tau_value, dim, row_offset, _, _ = ctx.options
        compute = compute_dtype(logits.dtype)
        temperature = scalar_tensor(tau, tau_value, logits)
        y = reference.gumbel_softmax_fwd(logits, key, tau, tau_value, dim, False, row_offset, compute)
        # every row's contribution to dtau gets the same cotangent, since backward sums them
        ddtau = ddtau_rows[0] if ddtau_rows.numel() else 0.0
        dgrad, dy, dtau = reference.double_backward(grad, y, temperature, dim, ddlogits, ddtau)
        dlogits = reference.dlogits_from_sample(dy, y, temperature, dim)
        if tau is not None:
            dtau = dtau + reference.dtau_from_sample(dlogits, y, dim).sum()
        return dgrad, dlogits.to(logits.dtype), dtau if tau is not None else None, None, None
