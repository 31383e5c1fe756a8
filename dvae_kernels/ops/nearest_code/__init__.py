"""The nearest code of every row: the search of vector quantization, certified, without a matrix of distances."""

from dvae_kernels.ops.nearest_code.op import Rescored, nearest_code

__all__ = ["Rescored", "nearest_code"]
