"""Raw ops of the categorical divergence, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels._rows import new_rows
from dvae_kernels.ops.categorical_kl import reference


def new_divergence(logits: Tensor, dim: int) -> Tensor:
    return new_rows(logits, dim, compute_dtype(logits.dtype))


def new_gradients(logits: Tensor, prior_grad: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits), torch.empty_like(logits) if prior_grad else logits.new_empty((0,))


# `dim` counts from the front; a prior has the shape of the logits. The result, without `dim`, is contiguous.
CATEGORICAL_KL_FWD = define_op(
    "categorical_kl_fwd(Tensor logits, Tensor? prior, int dim) -> Tensor", reference, new_divergence
)
# Returns (dlogits, dprior), dprior empty unless prior_grad.
CATEGORICAL_KL_BWD = define_op(
    "categorical_kl_bwd(Tensor grad, Tensor logits, Tensor? prior, int dim, bool prior_grad) -> (Tensor, Tensor)",
    reference,
    new_gradients,
)
