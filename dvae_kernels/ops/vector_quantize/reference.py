"""Vector quantization in plain torch: the definition that every backend is tested against.

The ops have the signatures of op.py's schemas, those on rows take them as [N, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._autograd import without_autocast
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.codebook import reference as codebook_ops
from dvae_kernels.ops.gumbel_softmax import reference as gumbel_softmax

MASKED = -1  # the index of a row that takes no part


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
    """(dx, dcodes in the compute dtype or nothing). Differentiable, to what the losses do not hold constant."""
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


def sample_codes(x: Tensor, codebook: Tensor, key: Tensor, cosine: bool, temperature: float, row_offset: int) -> Tensor:
    """Indices [H, N] of codes drawn with p(k) ~ exp(2 s(k) / temperature), s as nearest_code's, for x [H, N, D] and the
    codebook [H, K, D]."""
    logits = code_logits(x, *scoring_codes(codebook, cosine, compute_dtype(x.dtype)), temperature)
    return gumbel_softmax.gumbel_argmax(logits, key, 1, row_offset).t().clamp(min=0)


def scoring_codes(codebook: Tensor, cosine: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, offsets [H, 1, K], centre [H, 1, D]) with s(k) = (x - centre) . codes_k + offset_k, up to what is the
    same for all codes. A code that is not finite has offset -inf."""
    codes = codebook.to(dtype)
    finite = codes.isfinite().all(2, keepdim=True)
    codes = torch.where(finite, codes, 0)
    if cosine:
        centre = torch.zeros_like(codes[:, :1])
        norms = torch.linalg.vector_norm(codes, dim=2, keepdim=True, dtype=torch.float64)
        codes = (codes / torch.where(norms > 0, norms, 1)).to(dtype)
        offsets = torch.zeros_like(codes[:, :, 0])
    else:
        # distances do not change when everything moves, but their rounding does
        centre = codes.sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp(min=1)
        codes = torch.where(finite, codes - centre, 0)
        offsets = codes.square().sum(2) / -2
    return codes, torch.where(finite[:, :, 0], offsets, -torch.inf)[:, None], centre


def code_logits(x: Tensor, codes: Tensor, offsets: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Log probabilities of the codes, up to a constant for each row: [N, K, H]."""
    with without_autocast(x.device):
        scores = torch.baddbmm(offsets, x.to(codes.dtype) - centre, codes.transpose(1, 2))
    # the best is 0, so that no temperature overflows; a scale of 0 would make NaN of -inf
    limits = torch.finfo(scores.dtype)
    scale = max(min(2 / temperature, limits.max), limits.tiny)
    return scores.sub_(scores.amax(2, keepdim=True)).mul_(scale).permute(1, 2, 0)
