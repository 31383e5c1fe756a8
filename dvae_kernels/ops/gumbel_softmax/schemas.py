"""Raw ops of Gumbel-softmax, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import new_sample
from dvae_kernels._library import define_op
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels.ops.gumbel_softmax import reference


def new_dlogits(y: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(y, dtype=dtype)


def new_gradients(logits: Tensor, dim: int, tau_grad: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits), new_tau_rows(logits, dim, tau_grad)


def new_index(logits: Tensor, dim: int) -> Tensor:
    return new_rows(logits, dim, torch.int64)


def new_onehot(logits: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return new_sample(logits, dtype), new_index(logits, dim)


# The temperature is the tensor `tau` where there is one, else `tau_value`. `dim` counts from the front.
GUMBEL_SOFTMAX_FWD = define_op(
    "gumbel_softmax_fwd(Tensor logits, Tensor key, Tensor? tau, float tau_value, int dim, bool hard, "
    "SymInt row_offset, ScalarType dtype) -> Tensor",
    reference,
    new_sample,
)
# Takes the relaxed sample y and returns dlogits in `dtype`.
GUMBEL_SOFTMAX_BWD = define_op(
    "gumbel_softmax_bwd(Tensor grad, Tensor y, Tensor? tau, float tau_value, int dim, ScalarType dtype) -> Tensor",
    reference,
    new_dlogits,
)
# Recomputes y from the logits and the key (without a key: no noise). Returns dlogits and the rows' contributions to
# dtau, empty unless tau_grad.
GUMBEL_SOFTMAX_RECOMPUTE_BWD = define_op(
    "gumbel_softmax_recompute_bwd(Tensor grad, Tensor logits, Tensor? key, Tensor? tau, float tau_value, int dim, "
    "SymInt row_offset, bool tau_grad) -> (Tensor, Tensor)",
    reference,
    new_gradients,
)
# Returns the index of the hard sample, int64 without `dim`: NONE or NAN of _indices.py where there is none.
GUMBEL_ARGMAX = define_op(
    "gumbel_argmax(Tensor logits, Tensor key, int dim, SymInt row_offset) -> Tensor", reference, new_index
)
# Returns the hard sample and its index.
GUMBEL_ONEHOT = define_op(
    "gumbel_onehot(Tensor logits, Tensor key, int dim, SymInt row_offset, ScalarType dtype) -> (Tensor, Tensor)",
    reference,
    new_onehot,
)
