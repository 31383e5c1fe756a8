"""Schemas and autograd of ReinMax and Gumbel-Rao, the estimators that need the index of the hard sample.

`gumbel_softmax(..., hard=True, estimator=...)` is their public function. Backward makes its samples again from the
logits, the key and the index that the forward chose.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _autograd, _validate
from dvae_kernels._library import define_op
from dvae_kernels.ops.gumbel_softmax.schemas import ONEHOT
from dvae_kernels.ops.hard_estimators import reference

_TRITON = "dvae_kernels.ops.hard_estimators.triton_kernels"
ESTIMATORS = ("reinmax", "gumbel_rao")
_NAMES = ("gumbel", "straight_through", *ESTIMATORS)


def _reinmax_bwd_fake(grad: Tensor, logits: Tensor, index: Tensor, tau: Any, tau_value: float, dim: int) -> Tensor:
    return torch.empty_like(logits)


def _gumbel_rao_bwd_fake(grad: Tensor, logits: Tensor, key: Tensor, index: Tensor, tau: Any, tau_value: float,
                         dim: int, draws: int, row_offset: int) -> Tensor:  # fmt: skip
    return torch.empty_like(logits)


# `index` is that of gumbel_onehot. The temperature is the tensor `tau` where there is one, else `tau_value`.
_REINMAX_BWD = define_op(
    "reinmax_bwd(Tensor grad, Tensor logits, Tensor index, Tensor? tau, float tau_value, int dim) -> Tensor",
    reference=reference.reinmax_bwd,
    triton=f"{_TRITON}:reinmax_bwd",
    fake=_reinmax_bwd_fake,
)
_GUMBEL_RAO_BWD = define_op(
    "gumbel_rao_bwd(Tensor grad, Tensor logits, Tensor key, Tensor index, Tensor? tau, float tau_value, int dim, "
    "int draws, SymInt row_offset) -> Tensor",
    reference=reference.gumbel_rao_bwd,
    triton=f"{_TRITON}:gumbel_rao_bwd",
    fake=_gumbel_rao_bwd_fake,
)


@_autograd.quick_apply
class HardSampleFunction(torch.autograd.Function):
    """The hard sample and its index, with an estimator's backward. Forward-mode differentiation raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int, row_offset: int,
                dtype: torch.dtype, estimator: str, draws: int, backend: str) -> tuple[Tensor, Tensor]:  # fmt: skip
        return ONEHOT[backend](logits, key, dim, row_offset, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, key, tau, ctx.tau_value, ctx.dim, ctx.row_offset, _, ctx.estimator, ctx.draws, ctx.backend = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, key, output[1], tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, key, index, tau = ctx.saved_tensors
        # plain torch, where autograd differentiates the gradient in turn
        backend = "reference" if _autograd.differentiated_twice() else ctx.backend
        if ctx.estimator == "reinmax":
            dlogits = _REINMAX_BWD[backend](grad, logits, index, tau, ctx.tau_value, ctx.dim)
        else:
            dlogits = _GUMBEL_RAO_BWD[backend](
                grad, logits, key, index, tau, ctx.tau_value, ctx.dim, ctx.draws, ctx.row_offset
            )
        return (dlogits,) + (None,) * 9


def hard_sample(
    logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, dim: int, row_offset: int, dtype: torch.dtype,
    estimator: str, draws: int, backend: str,
) -> Tensor:  # fmt: skip
    """The hard sample with the gradient of one of ESTIMATORS; arguments are validated."""
    if not _autograd.needs_function(logits):
        return ONEHOT[backend](logits, key, dim, row_offset, dtype)[0]
    # the caller may advance the key before backward
    return HardSampleFunction.apply(
        logits, key.clone(), tau, tau_value, dim, row_offset, dtype, estimator, draws, backend
    )[0]


def validate(op: str, estimator: Any, draws: Any, hard: bool, tau: float | Tensor) -> None:
    """An estimator that exists, and the arguments that it needs; `tau` is validated."""
    if estimator not in _NAMES:
        raise ValueError(f"{op}: unknown estimator {estimator!r}, expected one of {', '.join(_NAMES)}")
    _validate.count(op, "draws", draws)
    if draws != 1 and estimator != "gumbel_rao":
        raise ValueError(f"{op}: expected draws of 1 for estimator {estimator!r}, got {draws}")
    if estimator == "gumbel":
        return
    if not hard:
        raise ValueError(f"{op}: expected hard=True for estimator {estimator!r}")
    if estimator == "reinmax" and not isinstance(tau, Tensor) and tau < 1:
        raise ValueError(f"{op}: expected tau >= 1 for estimator {estimator!r}, got {tau}")
    if estimator in ESTIMATORS and isinstance(tau, Tensor) and tau.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{op}: expected a tau that requires no gradient for estimator {estimator!r}, which gives none"
        )
