"""The raw op of the nearest code, and the allocation of its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels.ops.nearest_code import reference


def new_nearest(x: Tensor, with_score: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[:2]
    return (
        x.new_empty(rows, dtype=torch.int64),
        x.new_empty(rows if with_score else (0,), dtype=compute_dtype(x.dtype)),
        x.new_empty((3,), dtype=torch.int64),
    )


# Of x [H, N, D] and codebook [H, K, D] in any strides: (indices [H, N], scores [H, N] in the compute dtype, empty
# unless with_score, int64 counts of rows with more than one candidate block of codes, of pairs of row and block that
# were scored again, and of all pairs).
NEAREST_CODE = define_op(
    "nearest_code(Tensor x, Tensor codebook, str metric, str precision, bool with_score) -> (Tensor, Tensor, Tensor)",
    reference,
    new_nearest,
)
