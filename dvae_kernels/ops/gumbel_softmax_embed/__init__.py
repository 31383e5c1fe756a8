"""A Gumbel-softmax sample times a codebook, without the sample."""

from dvae_kernels.ops.gumbel_softmax_embed.op import gumbel_softmax_embed

__all__ = ["gumbel_softmax_embed"]
