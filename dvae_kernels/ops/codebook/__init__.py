"""Rows of a codebook by index, sums and numbers of rows by index, and the update of a codebook by them."""

from dvae_kernels.ops.codebook.op import CodeStatistics, code_statistics, code_sums, ema_update_, gather_codes

__all__ = ["CodeStatistics", "code_statistics", "code_sums", "ema_update_", "gather_codes"]
