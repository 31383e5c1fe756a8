"""The density of Gumbel-softmax (concrete) samples; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.gumbel_softmax_log_prob.op import gumbel_softmax_log_prob

__all__ = ["gumbel_softmax_log_prob"]
