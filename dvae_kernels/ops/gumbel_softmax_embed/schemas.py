"""Raw ops of a Gumbel-softmax sample times a codebook, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels.ops.gumbel_softmax_embed import reference


def new_embedding(
    logits: Tensor, codebook: Tensor, hard: bool, dtype: torch.dtype, save_sample: bool, kl: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(embedding, indices, the relaxed sample, the rows' KL)."""
    outer, _, inner = logits.shape
    sample = not hard and save_sample
    return (
        codebook.new_empty((outer, inner, codebook.shape[1])),
        logits.new_empty((outer, inner), dtype=torch.int64),
        torch.empty_like(logits, dtype=dtype) if sample else logits.new_empty((0,), dtype=dtype),
        logits.new_empty((outer, inner) if kl else (0,), dtype=compute_dtype(logits.dtype)),
    )


def new_gradients(
    logits: Tensor | None, sample: Tensor | None, codebook: Tensor, indices: Tensor, dtype: torch.dtype,
    logits_grad: bool, codebook_grad: bool, tau_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(dlogits, dcodebook, the rows' contributions to dtau)."""
    like = logits if logits is not None else sample
    assert like is not None
    compute = compute_dtype(dtype)
    return (
        torch.empty_like(like, dtype=dtype) if logits_grad else like.new_empty((0,), dtype=dtype),
        codebook.new_empty(codebook.shape if codebook_grad else (0,), dtype=compute),
        like.new_empty((indices.numel() if tau_grad else 0,), dtype=compute),
    )


# Takes logits [outer, K, inner]. Returns (embedding [outer, inner, D], indices [outer, inner], the relaxed sample in
# `dtype`, the rows' KL to uniform): the sample empty where it is hard or not to be saved, the KL where not asked for.
GUMBEL_SOFTMAX_EMBED_FWD = define_op(
    "gumbel_softmax_embed_fwd(Tensor logits, Tensor codebook, Tensor key, Tensor? tau, float tau_value, bool hard, "
    "SymInt row_offset, ScalarType dtype, bool save_sample, bool kl) -> (Tensor, Tensor, Tensor, Tensor)",
    reference,
    new_embedding,
    composed=True,
)
# `grad` [outer, D, inner] is in the dtype of the products. Without `sample` it is made again from the logits and the
# key. Returns (dlogits in `dtype`, dcodebook in the compute dtype, the rows' contributions to dtau), each empty where
# not asked for.
GUMBEL_SOFTMAX_EMBED_BWD = define_op(
    "gumbel_softmax_embed_bwd(Tensor? grad, Tensor? grad_kl, Tensor? logits, Tensor? sample, Tensor codebook, "
    "Tensor indices, Tensor key, Tensor? tau, float tau_value, SymInt row_offset, ScalarType dtype, bool logits_grad, "
    "bool codebook_grad, bool tau_grad) -> (Tensor, Tensor, Tensor)",
    reference,
    new_gradients,
    composed=True,
)
