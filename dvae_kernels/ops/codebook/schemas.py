"""Raw ops that gather, sum and count codes, and the allocation of their outputs."""

from __future__ import annotations

from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._library import define_op
from dvae_kernels.ops.codebook import reference


def new_codes(codebook: Tensor, indices: Tensor) -> Tensor:
    return codebook.new_empty((*indices.shape, codebook.shape[1]))


def new_sums(x: Tensor, num_codes: int) -> Tensor:
    return x.new_empty((num_codes, x.shape[1]), dtype=compute_dtype(x.dtype))


def new_statistics(x: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    sums = new_sums(x, num_codes)
    return sums.new_empty((num_codes,)), sums


# Returns rows of the codebook [K, D] by indices [...]: [..., D]. Index -1 gives zeros, any other outside [0, K) NaN.
GATHER_CODES = define_op("gather_codes(Tensor codebook, Tensor indices) -> Tensor", reference, new_codes)
# Returns sums of the rows of x [N, D] by indices [N], in the compute dtype: [num_codes, D].
CODE_SUMS = define_op("code_sums(Tensor x, Tensor indices, SymInt num_codes) -> Tensor", reference, new_sums)
# Returns the number of rows, and the same sums, without the rows that are not finite: [num_codes], [num_codes, D].
CODE_STATISTICS = define_op(
    "code_statistics(Tensor x, Tensor indices, SymInt num_codes) -> (Tensor counts, Tensor sums)",
    reference,
    new_statistics,
)
