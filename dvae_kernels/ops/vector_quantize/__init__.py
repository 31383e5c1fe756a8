"""Vector quantization: rows replaced by their codes, the losses, and the gradients that pass through."""

from dvae_kernels.ops.vector_quantize.op import VectorQuantized, vector_quantize

__all__ = ["VectorQuantized", "vector_quantize"]
