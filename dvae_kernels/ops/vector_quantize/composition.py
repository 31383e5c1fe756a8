"""Stochastic codes, composed of a matrix product and gumbel_argmax over blocks of rows.

A block's scores are made, used and dropped in cache: nothing of size N x K exists. Noise depends on the logical row
alone, so the blocks change nothing.
"""

from __future__ import annotations

from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._scalars import scalar_tensor
from dvae_kernels.ops.gumbel_softmax.schemas import GUMBEL_ARGMAX
from dvae_kernels.ops.vector_quantize.formulas import code_logits, scoring_codes
from dvae_kernels.ops.vector_quantize.schemas import new_indices

# Scores of a block: 2 MiB of float32 on a CPU. On a GPU each block costs some launches.
_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 23}


def sample_codes(
    backend: str, x: Tensor, codebook: Tensor, key: Tensor, metric: str, temperature: Tensor | None,
    temperature_value: float, row_offset: int,
) -> Tensor:  # fmt: skip
    heads, rows, _ = x.shape
    indices = new_indices(x)
    codes, offsets, centre = scoring_codes(codebook, metric, compute_dtype(x.dtype))
    temperature = scalar_tensor(temperature, temperature_value, x)
    step = max(_BLOCK[x.device.type] // (codebook.shape[1] * heads), 1)
    for first in range(0, rows, step):
        block = slice(first, first + step)
        logits = code_logits(x[:, block], codes, offsets, centre, temperature)
        indices[:, block] = GUMBEL_ARGMAX[backend](logits, key, 1, row_offset + first * heads).t().clamp(min=0)
    return indices
