"""A Gumbel-softmax sample times a codebook, without the sample; the mathematics is in README.md beside this file."""

from dvae_kernels.ops.gumbel_softmax_embed.op import (
    GumbelEmbedding,
    GumbelEmbeddingKL,
    gumbel_softmax_embed,
    gumbel_softmax_embed_kl,
)

__all__ = ["GumbelEmbedding", "GumbelEmbeddingKL", "gumbel_softmax_embed", "gumbel_softmax_embed_kl"]
