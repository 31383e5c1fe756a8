"""The raw ops of vector quantization, and the allocation of their outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels.ops.vector_quantize import reference


def new_quantized(x: Tensor, codebook: Tensor, keep_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = x.shape
    return (
        x.new_empty((rows, columns)),
        codebook.new_empty((rows if keep_codes else 0, columns)),
        x.new_empty((rows,), dtype=compute_dtype(x.dtype)),
    )


def new_gradients(x: Tensor, codes_grad: bool) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    return x.new_empty((rows, columns)), x.new_empty((rows if codes_grad else 0, columns), dtype=compute_dtype(x.dtype))


def new_indices(x: Tensor) -> Tensor:
    """One index a row of x [H, N, D]."""
    return x.new_empty(x.shape[:2], dtype=torch.int64)


# Of x [N, D], codebook [K, D] and indices [N]: (quantized [N, D] in the dtype of x, the codes [N, D] in the codebook's,
# empty unless kept, |x - c|^2 [N] in the compute dtype). Index -1: zeros. A row of x that is not finite and any other
# index outside [0, K): NaN.
VECTOR_QUANTIZE_FWD = define_op(
    "vector_quantize_fwd(Tensor x, Tensor codebook, Tensor indices, bool keep_codes) -> (Tensor, Tensor, Tensor)",
    reference,
    new_quantized,
)
# From the gradients to the quantized rows and to their losses, (commitment_weight + codebook_weight) |x - c|^2: (dx,
# dcodes in the compute dtype, empty unless codes_grad).
VECTOR_QUANTIZE_BWD = define_op(
    "vector_quantize_bwd(Tensor? grad, Tensor? grad_losses, Tensor x, Tensor codes, Tensor indices, "
    "float commitment_weight, float codebook_weight, bool rotation, bool codes_grad) -> (Tensor, Tensor)",
    reference,
    new_gradients,
)
# Of x [H, N, D] and codebook [H, K, D]: indices [H, N]. Row n of head h has number row_offset + n H + h in the stream.
SAMPLE_CODES = define_op(
    "sample_codes(Tensor x, Tensor codebook, Tensor key, str metric, Tensor? temperature, float temperature_value, "
    "SymInt row_offset) -> Tensor",
    reference,
    new_indices,
    composed=True,
)
