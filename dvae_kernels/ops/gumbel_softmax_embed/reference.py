"""A Gumbel-softmax sample times a codebook in plain torch: the definition that every backend is tested against.

The ops have the signatures of schemas.py. Logits are [outer, K, inner], the embedding is [outer, inner, D],
its gradient [outer, D, inner].
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._autograd import without_autocast
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._indices import NAN
from dvae_kernels.ops.categorical_kl import reference as categorical
from dvae_kernels.ops.codebook import reference as codebook_ops
from dvae_kernels.ops.gumbel_softmax import reference as gumbel_softmax
from dvae_kernels.ops.gumbel_softmax_embed.formulas import as_rows, mark_bad_temperature


def gumbel_softmax_embed_fwd(
    logits: Tensor,
    codebook: Tensor,
    key: Tensor,
    tau: Tensor | None,
    tau_value: float,
    hard: bool,
    row_offset: int,
    dtype: torch.dtype,
    save_sample: bool,
    kl: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(embedding, indices, the relaxed sample in `dtype`, the rows' KL to uniform), the last two where wanted."""
    compute = compute_dtype(logits.dtype)
    indices = mark_bad_temperature(gumbel_softmax.gumbel_argmax(logits, key, 1, row_offset), tau)
    sample, kl_rows = logits.new_empty((0,), dtype=dtype), logits.new_empty((0,), dtype=compute)
    if hard:
        embedding = codebook_ops.gather_codes(codebook, indices)
    else:
        y = gumbel_softmax.gumbel_softmax_fwd(logits, key, tau, tau_value, 1, False, row_offset, dtype)
        with without_autocast(logits.device):
            embedding = (y.transpose(1, 2) @ codebook.to(dtype)).to(codebook.dtype)
        if save_sample:
            sample = y
    if kl:
        kl_rows = categorical.categorical_kl_fwd(logits, None, 1)
    return embedding, indices, sample, kl_rows


def gumbel_softmax_embed_bwd(
    grad: Tensor | None,
    grad_kl: Tensor | None,
    logits: Tensor | None,
    sample: Tensor | None,
    codebook: Tensor,
    indices: Tensor,
    key: Tensor,
    tau: Tensor | None,
    tau_value: float,
    row_offset: int,
    dtype: torch.dtype,
    logits_grad: bool,
    codebook_grad: bool,
    tau_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dlogits in `dtype`, dcodebook in the compute dtype, the rows' contributions to dtau), empty where not wanted."""
    like = logits if logits is not None else sample
    assert like is not None
    compute = compute_dtype(dtype)
    dlogits = torch.zeros_like(like, dtype=dtype)
    dcodebook = codebook.new_zeros(codebook.shape if codebook_grad else (0,), dtype=compute)
    dtau_rows = like.new_zeros((indices.numel() if tau_grad else 0,), dtype=compute)
    if grad is not None:
        cotangent = sample_gradient(grad, codebook)
        if sample is None or tau_grad:
            assert logits is not None
            dlogits, dtau_rows = gumbel_softmax.gumbel_softmax_recompute_bwd(
                cotangent, logits, key, tau, tau_value, 1, row_offset, tau_grad
            )
        else:
            dlogits = gumbel_softmax.gumbel_softmax_bwd(cotangent, sample, tau, tau_value, 1, dtype)
        if codebook_grad and sample is not None:
            dcodebook = codebook_gradient(sample, indices, grad).to(compute)
        elif codebook_grad:
            dcodebook = codebook_ops.code_sums(as_rows(grad), indices.reshape(-1), codebook.shape[0])
    if grad_kl is not None:
        assert logits is not None
        dlogits = dlogits + categorical.categorical_kl_bwd(grad_kl, logits, None, 1, False)[0]
    return dlogits if logits_grad else dlogits.new_empty((0,)), dcodebook, dtau_rows


def sample_gradient(grad: Tensor, codebook: Tensor) -> Tensor:
    """The gradient to the sample, grad C^T: [outer, K, inner] from [outer, D, inner]."""
    with without_autocast(grad.device):
        return torch.einsum("odi,kd->oki", grad, codebook.to(grad.dtype))


def codebook_gradient(sample: Tensor, indices: Tensor, grad: Tensor) -> Tensor:
    """y^T grad over the rows that have a sample."""
    sample = torch.where((indices == NAN).unsqueeze(1), 0, sample)
    with without_autocast(grad.device):
        return torch.einsum("oki,odi->kd", sample, torch.where((indices == NAN).unsqueeze(1), 0, grad))
