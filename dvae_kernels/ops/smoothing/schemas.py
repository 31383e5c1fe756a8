"""Raw ops of the smoothing transformations, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype, new_sample
from dvae_kernels._elements import new_parameter_gradient
from dvae_kernels._library import define_op
from dvae_kernels.ops.smoothing import reference


def new_gradients(
    logits: Tensor, beta: Tensor | None, beta_grad: bool, noise_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    compute = compute_dtype(logits.dtype)
    dnoise = torch.empty_like(logits, dtype=compute) if noise_grad else logits.new_empty((0,), dtype=compute)
    return torch.empty_like(logits), new_parameter_gradient(logits, beta, beta_grad), dnoise


def new_density(zeta: Tensor) -> Tensor:
    return torch.empty_like(zeta, dtype=compute_dtype(zeta.dtype))


def new_density_gradients(
    zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(zeta), torch.empty_like(logits), new_parameter_gradient(logits, beta, beta_grad)


# Exactly one of `noise` (the compute dtype, the shape of the logits) and `key`. Beta is the tensor `beta` where there
# is one, a scalar or of the shape of the logits, else `beta_value`. `index_offset` is a 64-bit word.
SMOOTHING_FWD = define_op(
    "smoothing_fwd(Tensor logits, Tensor? noise, Tensor? key, Tensor? beta, float beta_value, str kind, "
    "SymInt index_offset, ScalarType dtype) -> Tensor",
    reference,
    new_sample,
)
# Returns (dlogits, dbeta, dnoise). dbeta has one value per element where beta is a tensor of them, else one partial sum
# per block; dbeta and dnoise are empty unless beta_grad and noise_grad.
SMOOTHING_BWD = define_op(
    "smoothing_bwd(Tensor grad, Tensor logits, Tensor? noise, Tensor? key, Tensor? beta, float beta_value, str kind, "
    "SymInt index_offset, bool beta_grad, bool noise_grad) -> (Tensor, Tensor, Tensor)",
    reference,
    new_gradients,
)
SMOOTHING_LOG_PROB_FWD = define_op(
    "smoothing_log_prob_fwd(Tensor zeta, Tensor logits, Tensor? beta, float beta_value, str kind) -> Tensor",
    reference,
    new_density,
)
# Returns (dzeta, dlogits, dbeta as above).
SMOOTHING_LOG_PROB_BWD = define_op(
    "smoothing_log_prob_bwd(Tensor grad, Tensor zeta, Tensor logits, Tensor? beta, float beta_value, str kind, "
    "bool beta_grad) -> (Tensor, Tensor, Tensor)",
    reference,
    new_density_gradients,
)
