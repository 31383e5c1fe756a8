"""Vector quantization in plain torch: the definition that every backend is tested against.

The ops have the signatures of schemas.py; ops on rows take them as [N, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._indices import MASKED
from dvae_kernels._scalars import scalar_tensor
from dvae_kernels.ops.codebook import reference as codebook_ops
from dvae_kernels.ops.gumbel_softmax import reference as gumbel_softmax
from dvae_kernels.ops.vector_quantize.formulas import code_logits, scoring_codes


def vector_quantize_fwd(
    x: Tensor, codebook: Tensor, indices: Tensor, keep_codes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(codes in the dtype of x, codes or nothing, |x - c|^2 of each row); all NaN where x is not finite."""
    compute = compute_dtype(x.dtype)
    x = torch.where((indices == MASKED)[:, None], 0, x)
    codes = codebook_ops.gather_codes(codebook, indices)
    codes = torch.where(x.isfinite().all(1, keepdim=True), codes, torch.nan)
    errors = (x.to(compute) - codes.to(compute)).square().sum(1)
    return codes.to(x.dtype, copy=True), codes if keep_codes else codes.new_empty((0, codes.shape[1])), errors


def vector_quantize_bwd(
    grad: Tensor | None,
    grad_losses: Tensor | None,
    x: Tensor,
    codes: Tensor,
    indices: Tensor,
    commitment_weight: float,
    codebook_weight: float,
    rotation: bool,
    codes_grad: bool,
) -> tuple[Tensor, Tensor]:
    """(dx, dcodes in the compute dtype or nothing). Differentiable to the side that a loss does not hold constant."""
    dtype, compute = x.dtype, compute_dtype(x.dtype)
    masked = (indices == MASKED)[:, None]
    x, codes = torch.where(masked, 0, x).to(compute), torch.where(masked, 0, codes).to(compute)
    fixed_x, fixed_codes = x.detach(), codes.detach()
    dx, dcodes = torch.zeros_like(x), torch.zeros_like(x if codes_grad else x[:0])
    if grad is not None:
        grad = grad.to(compute)
        dx = rotated_gradient(grad, fixed_x, fixed_codes) if rotation else grad
    if grad_losses is not None:
        slope = 2 * grad_losses[:, None]
        if commitment_weight:
            dx = dx + (commitment_weight * slope) * (x - fixed_codes)
        if codes_grad:
            missing = codes.isnan()  # of a row that is not finite
            difference = torch.where(missing, 0, codes) - torch.where(missing, 0, fixed_x)
            dcodes = torch.where(masked, 0, (codebook_weight * slope) * difference)
    return torch.where(masked, 0, dx).to(dtype), dcodes


def rotated_gradient(grad: Tensor, x: Tensor, codes: Tensor) -> Tensor:
    """The gradient to x through the rotation and stretching of x into its code, as constants; `grad` where there is no
    rotation: see the README."""

    def square(rows: Tensor) -> Tensor:
        return rows.square().sum(1, keepdim=True)

    exists = torch.ones_like(x[:, :1], dtype=torch.bool)
    for rows in (x, codes):
        exists = exists & (square(rows) > 2.0**-120) & (square(rows) < 2.0**120)
    x, codes = torch.where(exists, x, 1), torch.where(exists, codes, 1)
    x_norm, code_norm = square(x).sqrt(), square(codes).sqrt()
    half_way = x / x_norm + codes / code_norm
    exists = exists & (square(half_way) > 2.0**-32)
    along_half_way = (half_way * grad).sum(1, keepdim=True) / torch.where(exists, square(half_way), 1)
    along_code = (codes * grad).sum(1, keepdim=True) / code_norm
    rotated = code_norm / x_norm * (grad - 2 * half_way * along_half_way + 2 * (x / x_norm) * along_code)
    return torch.where(exists, rotated, grad)


def sample_codes(
    x: Tensor, codebook: Tensor, key: Tensor, metric: str, temperature: Tensor | None, temperature_value: float,
    row_offset: int,
) -> Tensor:  # fmt: skip
    """Indices [H, N] of codes drawn with p(k) ~ exp(2 s(k) / temperature), s as nearest_code's, for x [H, N, D] and the
    codebook [H, K, D]."""
    scores = scoring_codes(codebook, metric, compute_dtype(x.dtype))
    logits = code_logits(x, *scores, scalar_tensor(temperature, temperature_value, x))
    return gumbel_softmax.gumbel_argmax(logits, key, 1, row_offset).t().clamp(min=0)
