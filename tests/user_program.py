"""A user's program for mypy --strict, which checks it with the package: options have names that a type checker knows,
and results have types. tests/test_typing.py runs it.
"""

import torch
from torch import Tensor

import dvae_kernels
from dvae_kernels import nn
from dvae_kernels.losses import bernoulli_kl

logits, codebook = torch.randn(4, 6), torch.randn(6, 3)
tau = nn.Schedule(1.0, 0.1, steps=10, shape="cosine")
sample: Tensor = dvae_kernels.gumbel_softmax(logits, tau(), hard=True, estimator="straight_through", seed=1)
index: Tensor = dvae_kernels.gumbel_argmax(logits, dim=1, key=torch.tensor([1, 0]))
log_prob: Tensor = dvae_kernels.gumbel_softmax_log_prob(sample, logits, 0.5)
embedding, indices = dvae_kernels.gumbel_softmax_embed(logits, codebook)
kl: Tensor = dvae_kernels.gumbel_softmax_embed_kl(logits, codebook, hard=True).kl
divergence: Tensor = dvae_kernels.categorical_kl(logits, logits.clone(), dim=1)
divergence = dvae_kernels.losses.categorical_kl(logits)
bits: Tensor = dvae_kernels.binary_concrete(logits, float(tau), backend="cpp")
density: Tensor = dvae_kernels.binary_concrete_log_prob(bits, logits, 0.5)
for name, kind in dvae_kernels.SMOOTHING_KINDS.items():
    zeta: Tensor = dvae_kernels.smoothing_transform(logits, kind.typical_beta[0], name)
    density = dvae_kernels.smoothing_log_prob(zeta, logits, kind.typical_beta[0], name)
nearest: Tensor = dvae_kernels.nearest_code(sample, torch.eye(6), metric="cosine", precision="fp32")
result = dvae_kernels.nearest_code_scores(sample, torch.eye(6), metric="dot")
share: float = result.rescored.item() + result.scores.sum().item()
quantized = dvae_kernels.vector_quantize(embedding, codebook, gradient="rotation", reduction="sum", temperature=tau())
statistics = dvae_kernels.code_statistics(embedding, quantized.indices, 6)
dvae_kernels.ema_update_(codebook, torch.zeros(6), torch.zeros(6, 3), statistics.counts, statistics.sums)
with dvae_kernels.use_backend("reference"):
    loss: Tensor = quantized.loss + bernoulli_kl(logits).sum()
tau.step()


def wrong() -> None:
    """Nobody calls it. mypy tells where it finds no mistake."""
    dvae_kernels.gumbel_softmax(logits, estimator="gumble")  # type: ignore[arg-type]
    dvae_kernels.nearest_code(logits, logits, metric="l1")  # type: ignore[arg-type]
    dvae_kernels.vector_quantize(logits, logits, reduction="max")  # type: ignore[arg-type]
    nn.Schedule(1.0, 0.5, 3, shape="step")  # type: ignore[arg-type]
    _a, _b, _c = dvae_kernels.gumbel_softmax_embed(logits, codebook)  # type: ignore[misc]
