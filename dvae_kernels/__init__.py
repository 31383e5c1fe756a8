"""Fused kernels for discrete variational autoencoders: one noise stream on every device, nothing stored that can be
recomputed.

Importing this loads the compiled modules that are built here, so that exported programs find their kernels; triton is
imported by the first call that needs it.
`python -m dvae_kernels.info` tells what runs here and why the rest does not.
"""

from dvae_kernels import _library, losses, nn
from dvae_kernels._backend import BackendUnavailable, use_backend
from dvae_kernels._keys import split_key
from dvae_kernels.ops.binary_concrete import binary_concrete, binary_concrete_log_prob
from dvae_kernels.ops.categorical_kl import categorical_kl
from dvae_kernels.ops.codebook import code_statistics, ema_update_
from dvae_kernels.ops.gumbel_softmax import gumbel_argmax, gumbel_softmax
from dvae_kernels.ops.gumbel_softmax_embed import gumbel_softmax_embed, gumbel_softmax_embed_kl
from dvae_kernels.ops.gumbel_softmax_log_prob import gumbel_softmax_log_prob
from dvae_kernels.ops.nearest_code import nearest_code, nearest_code_scores
from dvae_kernels.ops.smoothing import SMOOTHING_KINDS, smoothing_log_prob, smoothing_transform
from dvae_kernels.ops.vector_quantize import vector_quantize

_library.load_kernels()

__version__ = "0.1.0"

__all__ = [
    "SMOOTHING_KINDS",
    "BackendUnavailable",
    "binary_concrete",
    "binary_concrete_log_prob",
    "categorical_kl",
    "code_statistics",
    "ema_update_",
    "gumbel_argmax",
    "gumbel_softmax",
    "gumbel_softmax_embed",
    "gumbel_softmax_embed_kl",
    "gumbel_softmax_log_prob",
    "losses",
    "nearest_code",
    "nearest_code_scores",
    "nn",
    "smoothing_log_prob",
    "smoothing_transform",
    "split_key",
    "use_backend",
    "vector_quantize",
]
