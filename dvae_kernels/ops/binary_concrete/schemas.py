"""Raw ops of the binary concrete distribution, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype, new_sample
from dvae_kernels._elements import new_block_sums
from dvae_kernels._library import define_op
from dvae_kernels.ops.binary_concrete import reference


def new_gradients(logits: Tensor, tau_grad: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits), new_block_sums(logits, tau_grad)


def new_density(y: Tensor) -> Tensor:
    return torch.empty_like(y, dtype=compute_dtype(y.dtype))


def new_density_gradients(y: Tensor, logits: Tensor, tau_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(logits), new_block_sums(y, tau_grad)


# The temperature is the tensor `tau` where there is one, else `tau_value`. `index_offset` is a 64-bit word.
BINARY_CONCRETE_FWD = define_op(
    "binary_concrete_fwd(Tensor logits, Tensor key, Tensor? tau, float tau_value, bool hard, SymInt index_offset, "
    "ScalarType dtype) -> Tensor",
    reference,
    new_sample,
)
# Returns (dlogits, the blocks' contributions to dtau, empty unless tau_grad).
BINARY_CONCRETE_BWD = define_op(
    "binary_concrete_bwd(Tensor grad, Tensor logits, Tensor key, Tensor? tau, float tau_value, SymInt index_offset, "
    "bool tau_grad) -> (Tensor, Tensor)",
    reference,
    new_gradients,
)
BINARY_CONCRETE_LOG_PROB_FWD = define_op(
    "binary_concrete_log_prob_fwd(Tensor y, Tensor logits, Tensor? tau, float tau_value) -> Tensor",
    reference,
    new_density,
)
# Returns (dy, dlogits, the blocks' contributions to dtau, empty unless tau_grad).
BINARY_CONCRETE_LOG_PROB_BWD = define_op(
    "binary_concrete_log_prob_bwd(Tensor grad, Tensor y, Tensor logits, Tensor? tau, float tau_value, bool tau_grad) "
    "-> (Tensor, Tensor, Tensor)",
    reference,
    new_density_gradients,
)
