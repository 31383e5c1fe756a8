"""Schemas of the raw ops of Gumbel-softmax, each with its table {backend: callable}.

Apart from op.py, since the ops of hard_estimators, which op.py dispatches to, call them too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels._library import define_op
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels.ops.gumbel_softmax import reference

_TRITON = "dvae_kernels.ops.gumbel_softmax.triton_kernels"


def _fwd_fake(logits: Tensor, key: Tensor, tau: Any, tau_value: float, dim: int, hard: bool, row_offset: int,
              dtype: torch.dtype) -> Tensor:  # fmt: skip
    return torch.empty_like(logits, dtype=dtype)


def _bwd_fake(grad: Tensor, y: Tensor, tau: Any, tau_value: float, dim: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(y, dtype=dtype)


def _recompute_bwd_fake(grad: Tensor, logits: Tensor, key: Any, tau: Any, tau_value: float, dim: int,
                        row_offset: int, tau_grad: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(logits), new_tau_rows(logits, dim, tau_grad)


def _argmax_fake(logits: Tensor, key: Tensor, dim: int, row_offset: int) -> Tensor:
    return new_rows(logits, dim, torch.int64)


def _onehot_fake(logits: Tensor, key: Tensor, dim: int, row_offset: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits, dtype=dtype), new_rows(logits, dim, torch.int64)


# The temperature is the tensor `tau` where there is one, else `tau_value`. `dim` counts from the front.
FWD = define_op(
    "gumbel_softmax_fwd(Tensor logits, Tensor key, Tensor? tau, float tau_value, int dim, bool hard, "
    "SymInt row_offset, ScalarType dtype) -> Tensor",
    reference=reference.gumbel_softmax_fwd,
    triton=f"{_TRITON}:gumbel_softmax_fwd",
    fake=_fwd_fake,
)
# From the relaxed sample y: dlogits in `dtype`.
BWD = define_op(
    "gumbel_softmax_bwd(Tensor grad, Tensor y, Tensor? tau, float tau_value, int dim, ScalarType dtype) -> Tensor",
    reference=reference.gumbel_softmax_bwd,
    triton=f"{_TRITON}:gumbel_softmax_bwd",
    fake=_bwd_fake,
)
# With y made again from the logits and the key, or without noise where there is no key: (dlogits, the rows' parts of
# dtau, empty unless tau_grad).
RECOMPUTE_BWD = define_op(
    "gumbel_softmax_recompute_bwd(Tensor grad, Tensor logits, Tensor? key, Tensor? tau, float tau_value, int dim, "
    "SymInt row_offset, bool tau_grad) -> (Tensor, Tensor)",
    reference=reference.gumbel_softmax_recompute_bwd,
    triton=f"{_TRITON}:gumbel_softmax_recompute_bwd",
    fake=_recompute_bwd_fake,
)
# The index of the hard sample, int64 without `dim`: -1 in a row of only -inf, -2 in one with NaN or +inf.
ARGMAX = define_op(
    "gumbel_argmax(Tensor logits, Tensor key, int dim, SymInt row_offset) -> Tensor",
    reference=reference.gumbel_argmax,
    triton=f"{_TRITON}:gumbel_argmax",
    fake=_argmax_fake,
)
# The hard sample and its index.
ONEHOT = define_op(
    "gumbel_onehot(Tensor logits, Tensor key, int dim, SymInt row_offset, ScalarType dtype) -> (Tensor, Tensor)",
    reference=reference.gumbel_onehot,
    triton=f"{_TRITON}:gumbel_onehot",
    fake=_onehot_fake,
)
