"""Gumbel-softmax sampling; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.gumbel_softmax.derivatives import recompute_bwd, sample_bwd
from dvae_kernels.ops.gumbel_softmax.op import gumbel_argmax, gumbel_softmax

__all__ = ["gumbel_argmax", "gumbel_softmax", "recompute_bwd", "sample_bwd"]
