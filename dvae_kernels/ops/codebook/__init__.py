"""Rows of a codebook by index, and sums of rows by index: each is the other's derivative."""

from dvae_kernels.ops.codebook.op import code_sums, gather_codes

__all__ = ["code_sums", "gather_codes"]
