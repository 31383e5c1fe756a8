"""The ops of gumbel_softmax_embed, composed of those of one backend over blocks of rows.

A block is what stays in cache: its part of every tensor of the size of the logits is made, used and dropped there, so
that no such tensor but the results is ever whole. Noise depends on the logical row alone, so the blocks change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dvae_kernels._autograd import without_autocast
from dvae_kernels._indices import NAN
from dvae_kernels.ops.categorical_kl.schemas import CATEGORICAL_KL_BWD, CATEGORICAL_KL_FWD
from dvae_kernels.ops.codebook.schemas import CODE_SUMS, GATHER_CODES
from dvae_kernels.ops.gumbel_softmax.schemas import (
    GUMBEL_ARGMAX,
    GUMBEL_SOFTMAX_BWD,
    GUMBEL_SOFTMAX_FWD,
    GUMBEL_SOFTMAX_RECOMPUTE_BWD,
)
from dvae_kernels.ops.gumbel_softmax_embed.formulas import as_rows, mark_bad_temperature
from dvae_kernels.ops.gumbel_softmax_embed.schemas import new_embedding, new_gradients

# Elements of a block: 4 MiB of float32 on a CPU. On a GPU half of an H100's 50 MiB: each block costs some launches.
_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 23}

# Rows (outer and inner index) of a block, and the number of the first of them.
_Block = tuple[slice, slice, int]


def _blocks(like: Tensor) -> Iterator[_Block]:
    """Whole outer indices, or parts of a single one where its K * inner elements are too many."""
    outer, k, inner = like.shape
    size = _BLOCK[like.device.type]
    columns = min(inner, max(size // k, 1))
    rows = max(size // (k * inner), 1)
    for o in range(0, outer, rows):
        for i in range(0, inner, columns):
            yield slice(o, o + rows), slice(i, i + columns), o * inner + i


def gumbel_softmax_embed_fwd(
    backend: str, logits: Tensor, codebook: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, hard: bool,
    row_offset: int, dtype: torch.dtype, save_sample: bool, kl: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outputs = new_embedding(logits, codebook, hard, dtype, save_sample, kl)
    if logits.numel() == 0:
        return outputs
    codes = codebook.to(dtype)
    blocks = list(_blocks(logits))
    for o, i, first in blocks:
        block, offset = logits[o, :, i], row_offset + first
        index = mark_bad_temperature(GUMBEL_ARGMAX[backend](block, key, 1, offset), tau)
        sample, kl_rows = outputs[2:]
        if hard:
            embedding = GATHER_CODES[backend](codebook, index)
        else:
            sample = GUMBEL_SOFTMAX_FWD[backend](block, key, tau, tau_value, 1, False, offset, dtype)
            with without_autocast(block.device):
                embedding = _times_codes(sample, codes).to(codebook.dtype)
            if not save_sample:
                sample = outputs[2]
        if kl:
            kl_rows = CATEGORICAL_KL_FWD[backend](block, None, 1)
        parts = (embedding, index, sample, kl_rows)
        if len(blocks) == 1:
            return parts
        for output, part in zip(outputs, parts):
            if part is not output:
                output[(o, slice(None), i) if part is sample else (o, i)] = part
    return outputs


def gumbel_softmax_embed_bwd(
    backend: str, grad: Tensor | None, grad_kl: Tensor | None, logits: Tensor | None, sample: Tensor | None,
    codebook: Tensor, indices: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, row_offset: int,
    dtype: torch.dtype, logits_grad: bool, codebook_grad: bool, tau_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    like = logits if logits is not None else sample
    assert like is not None
    dlogits, dcodebook, dtau_rows = new_gradients(
        logits, sample, codebook, indices, dtype, logits_grad, codebook_grad, tau_grad
    )
    if sample is not None or grad is None:  # else one sum over all rows
        dcodebook.zero_()
    elif codebook_grad:
        dcodebook = CODE_SUMS[backend](as_rows(grad), indices.reshape(-1), codebook.shape[0])
    if like.numel() == 0:
        return dlogits, dcodebook, dtau_rows
    if grad is None:
        dtau_rows.zero_()
    codes = None if grad is None else codebook.to(grad.dtype)

    def of_block(o: slice, i: slice, first: int) -> tuple[Tensor | None, Tensor]:
        """(dlogits, the rows' contributions to dtau) of one block, whose temporaries end with it; adds to dcodebook."""
        x = None if logits is None else logits[o, :, i]
        y = None if sample is None else sample[o, :, i]
        dx, dtau = None, dtau_rows
        if codes is not None and grad is not None:
            g = grad[o, :, i]
            if y is not None and codebook_grad:
                missing = (indices[o, i] == NAN).unsqueeze(1)
                with without_autocast(g.device):
                    dcodebook.add_(_codebook_gradient(y.masked_fill(missing, 0), g.masked_fill(missing, 0)))
            if logits_grad or tau_grad:
                with without_autocast(g.device):
                    cotangent = _sample_gradient(g, codes, like[o, :, i])
                if y is None or tau_grad:
                    assert x is not None
                    dx, dtau = GUMBEL_SOFTMAX_RECOMPUTE_BWD[backend](
                        cotangent, x, key, tau, tau_value, 1, row_offset + first, tau_grad
                    )
                else:
                    dx = GUMBEL_SOFTMAX_BWD[backend](cotangent, y, tau, tau_value, 1, dtype)
                del cotangent
        if grad_kl is not None and logits_grad:
            dkl, _ = CATEGORICAL_KL_BWD[backend](grad_kl[o, i], x, None, 1, False)
            dx = dkl if dx is None else dx.add_(dkl)
        return dx, dtau

    blocks = list(_blocks(like))
    if len(blocks) == 1:
        dx, dtau = of_block(*blocks[0])
        return dx if logits_grad and dx is not None else dlogits.zero_(), dcodebook, dtau
    for o, i, first in blocks:
        dx, dtau = of_block(o, i, first)
        if logits_grad:
            dlogits[o, :, i] = 0 if dx is None else dx
        if tau_grad and grad is not None:
            dtau_rows.view(indices.shape)[o, i] = dtau.view(indices[o, i].shape)
        del dx
    return dlogits, dcodebook, dtau_rows


# Products over a block [b, K, m]. Where its columns lie next to each other it is a matrix [b * m, K] in memory, else
# b matrices [K, m]. Results are laid out like the block: nothing is transposed.


def _is_matrix(block: Tensor) -> bool:
    return block.stride(1) == 1 or block.shape[2] == 1


def _times_codes(sample: Tensor, codes: Tensor) -> Tensor:
    """y C: [b, m, D]."""
    if _is_matrix(sample):
        return sample.transpose(1, 2) @ codes
    return torch.bmm(sample.transpose(1, 2), codes.expand(sample.shape[0], -1, -1))


def _sample_gradient(grad: Tensor, codes: Tensor, like: Tensor) -> Tensor:
    """grad C^T: [b, K, m] from [b, D, m], laid out like `like`."""
    b, _, m = grad.shape
    if _is_matrix(like):
        return (as_rows(grad) @ codes.t()).view(b, m, -1).transpose(1, 2)
    return torch.bmm(codes.expand(b, -1, -1), grad)


def _codebook_gradient(sample: Tensor, grad: Tensor) -> Tensor:
    """y^T grad: [K, D]."""
    if _is_matrix(sample):
        return as_rows(sample).t() @ as_rows(grad)
    return torch.bmm(sample, grad.transpose(1, 2)).sum(0)
