"""Raw ops of the density of Gumbel-softmax samples, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels.ops.gumbel_softmax_log_prob import reference


def new_density(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    density = new_rows(logits, dim, compute_dtype(logits.dtype))
    return density, torch.empty_like(density)


def new_gradients(y: Tensor, logits: Tensor, dim: int, tau_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(logits), new_tau_rows(logits, dim, tau_grad)


# The temperature is the tensor `tau` where there is one, else `tau_value`. `dim` counts from the front; samples have
# the shape of the logits. Returns (the log density less lgamma(count), count), contiguous, without `dim`; count is the
# number of categories that are not excluded. Plain torch adds the lgamma.
GUMBEL_SOFTMAX_LOG_PROB_FWD = define_op(
    "gumbel_softmax_log_prob_fwd(Tensor y, Tensor logits, Tensor? tau, float tau_value, int dim) -> (Tensor, Tensor)",
    reference,
    new_density,
)
# Returns (dy, dlogits, the rows' contributions to dtau, empty unless tau_grad).
GUMBEL_SOFTMAX_LOG_PROB_BWD = define_op(
    "gumbel_softmax_log_prob_bwd(Tensor grad, Tensor y, Tensor logits, Tensor? tau, float tau_value, int dim, "
    "bool tau_grad) -> (Tensor, Tensor, Tensor)",
    reference,
    new_gradients,
)
