"""A user's file is checked by mypy --strict: options are known by name, and results have their types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USER = """
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
"""
WRONG = {
    'estimator="gumble"': 'dvae_kernels.gumbel_softmax(torch.zeros(2), estimator="gumble")',
    'metric="l1"': 'dvae_kernels.nearest_code(torch.zeros(2), torch.zeros(2, 2), metric="l1")',
    'reduction="max"': 'dvae_kernels.vector_quantize(torch.zeros(2), torch.zeros(2, 2), reduction="max")',
    'shape="step"': 'dvae_kernels.nn.Schedule(1.0, 0.5, 3, shape="step")',
    "a tuple of three": "a, b, c = dvae_kernels.gumbel_softmax_embed(torch.zeros(2), torch.zeros(2, 2))",
}


@pytest.mark.slow
def test_a_users_file(tmp_path: Path) -> None:
    exec(compile(USER, "user.py", "exec"), {})
    wrong = "import torch\nimport dvae_kernels\n" + "\n".join(WRONG.values()) + "\n"
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(wrong)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={tmp_path}"]
    result = subprocess.run([*command, "user.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    found = {int(line.split(":")[1]) for line in result.stdout.splitlines() if line.startswith("wrong.py")}
    others = [line for line in result.stdout.splitlines() if not line.startswith("wrong.py")]
    assert not others, "\n".join(others)
    assert found == {number + 3 for number in range(len(WRONG))}, result.stdout
