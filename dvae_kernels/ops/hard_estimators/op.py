"""Autograd of ReinMax and Gumbel-Rao, the estimators that need the index of the hard sample.

`gumbel_softmax(..., hard=True, estimator=...)` is their public function. Backward makes its samples again from the
logits, the key and the index that the forward chose.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dvae_kernels import _autograd, _validate
from dvae_kernels._scalars import Scalar
from dvae_kernels.ops.gumbel_softmax.schemas import GUMBEL_ONEHOT
from dvae_kernels.ops.hard_estimators.schemas import GUMBEL_RAO_BWD, REINMAX_BWD

ESTIMATORS = ("reinmax", "gumbel_rao")
Estimator = Literal["gumbel", "straight_through", "reinmax", "gumbel_rao"]
_NAMES: tuple[Estimator, ...] = get_args(Estimator)


class _Options(NamedTuple):
    """The arguments of a call that are not tensors."""

    tau_value: float
    dim: int
    row_offset: int
    dtype: torch.dtype
    estimator: str
    draws: int
    backend: str


@_autograd.quick_apply
class HardSampleFunction(torch.autograd.Function):
    """The hard sample and its index, with an estimator's backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, key: Tensor, tau: Tensor | None, options: _Options) -> tuple[Tensor, Tensor]:
        return GUMBEL_ONEHOT[options.backend](logits, key, options.dim, options.row_offset, options.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, key, tau, ctx.options = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, key, output[1], tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, key, index, tau = ctx.saved_tensors
        tau_value, dim, row_offset, _, estimator, draws, backend = ctx.options
        backend = _autograd.backward_backend(backend)
        if estimator == "reinmax":
            dlogits = REINMAX_BWD[backend](grad, logits, index, tau, tau_value, dim)
        else:
            dlogits = GUMBEL_RAO_BWD[backend](grad, logits, key, index, tau, tau_value, dim, draws, row_offset)
        return dlogits, None, None, None


def hard_sample(
    logits: Tensor, tau: Scalar, key: Tensor, dim: int, row_offset: int, dtype: torch.dtype, estimator: str,
    draws: int, backend: str, *, borrows_key: bool,
) -> Tensor:  # fmt: skip
    """The hard sample with the gradient of one of ESTIMATORS; arguments are validated."""
    options = _Options(tau.value, dim, row_offset, dtype, estimator, draws, backend)
    sample, _ = _autograd.apply_or_forward(
        HardSampleFunction, (logits,), key, tau.tensor, options, borrows_key=borrows_key
    )
    return sample


def validate(op: str, estimator: Any, draws: Any, hard: bool, tau: float | Tensor) -> None:
    """An estimator that exists, and the arguments that it needs; `tau` is validated."""
    if estimator not in _NAMES:
        raise ValueError(f"{op}: unknown estimator {estimator!r}, expected one of {', '.join(_NAMES)}")
    _validate.count(op, "draws", draws, bits=31)
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
