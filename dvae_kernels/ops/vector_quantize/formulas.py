"""Log probabilities of stochastic codes, for the reference and for the composition of the other backends."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._autograd import without_autocast
from dvae_kernels._bounds import within
from dvae_kernels.ops.nearest_code import METRICS


def scoring_codes(codebook: Tensor, metric: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, offsets [H, 1, K], centre [H, 1, D]) with s(k) = (x - centre) . codes_k + offset_k, up to a
    constant of the row. A code that is not finite has offset -inf."""
    codes = codebook.to(dtype)
    finite = codes.isfinite().all(2, keepdim=True)
    codes = torch.where(finite, codes, 0)
    centre, offsets = torch.zeros_like(codes[:, :1]), torch.zeros_like(codes[:, :, 0])
    if METRICS[metric].normalised:
        norms = torch.linalg.vector_norm(codes, dim=2, keepdim=True, dtype=torch.float64)
        codes = (codes / torch.where(norms > 0, norms, 1)).to(dtype)
    if METRICS[metric].distance:
        # distances do not change when everything moves, but their rounding does
        centre = codes.sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp(min=1)
        codes = torch.where(finite, codes - centre, 0)
        offsets = codes.square().sum(2) / -2
    return codes, torch.where(finite[:, :, 0], offsets, -torch.inf)[:, None], centre


def code_logits(x: Tensor, codes: Tensor, offsets: Tensor, centre: Tensor, temperature: Tensor) -> Tensor:
    """Log probabilities of the codes, up to a constant for each row: [N, K, H]."""
    with without_autocast(x.device):
        scores = torch.baddbmm(offsets, x.to(codes.dtype) - centre, codes.transpose(1, 2))
    # the best is 0, so that no temperature overflows; a scale of 0 would make NaN of -inf
    limits = torch.finfo(scores.dtype)
    scale = within(2 / temperature, limits.tiny, limits.max)
    scale = torch.where((temperature >= 0) & (temperature < torch.inf), scale, torch.nan)
    return scores.sub_(scores.amax(2, keepdim=True)).mul_(scale).permute(1, 2, 0)
