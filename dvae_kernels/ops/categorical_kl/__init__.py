"""The categorical divergence; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.categorical_kl.op import categorical_kl

__all__ = ["categorical_kl"]
