"""Divergence and density of categorical latents and their relaxations; see README.md."""

from dvae_kernels.ops.categorical.op import categorical_kl, gumbel_softmax_log_prob

__all__ = ["categorical_kl", "gumbel_softmax_log_prob"]
