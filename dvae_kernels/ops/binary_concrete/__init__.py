"""Binary concrete sampling and its log density; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.binary_concrete.op import binary_concrete, binary_concrete_log_prob

__all__ = ["binary_concrete", "binary_concrete_log_prob"]
