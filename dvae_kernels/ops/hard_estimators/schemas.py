"""Raw ops of ReinMax and Gumbel-Rao, and the allocation of their output."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._library import define_op
from dvae_kernels.ops.hard_estimators import reference


def new_dlogits(logits: Tensor) -> Tensor:
    return torch.empty_like(logits)


# `index` is that of gumbel_onehot. The temperature is the tensor `tau` where there is one, else `tau_value`.
REINMAX_BWD = define_op(
    "reinmax_bwd(Tensor grad, Tensor logits, Tensor index, Tensor? tau, float tau_value, int dim) -> Tensor",
    reference,
    new_dlogits,
)
GUMBEL_RAO_BWD = define_op(
    "gumbel_rao_bwd(Tensor grad, Tensor logits, Tensor key, Tensor index, Tensor? tau, float tau_value, int dim, "
    "int draws, SymInt row_offset) -> Tensor",
    reference,
    new_dlogits,
)
