"""Samples follow their distribution: fixed seeds, thresholds with a false alarm in a million."""

from __future__ import annotations

import pytest
import torch

from conftest import Target
from dvae_kernels import gumbel_argmax, gumbel_softmax, gumbel_softmax_log_prob

np = pytest.importorskip("numpy")  # a GPU machine may have neither
stats = pytest.importorskip("scipy.stats")

ALARM = 1e-6


@pytest.fixture(autouse=True)
def enough_samples(target: Target) -> None:
    if target.interpreted:
        pytest.skip("too many samples for the interpreter, which the contract holds to the same stream")


@pytest.mark.parametrize("k", [2, 5, 64, 1000])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("op", ["gumbel_softmax", "gumbel_argmax"])
def test_hard_samples_follow_softmax(target: Target, k: int, dim: int, op: str) -> None:
    """Chi-square of the counts against softmax(logits), rare categories pooled."""
    rows = 1_000_000 // k
    values = 1.5 * torch.randn(k, generator=torch.Generator().manual_seed(k))
    logits = (values.expand(rows, k) if dim else values[:, None].expand(k, rows)).to(target.device)
    options = {"dim": dim, "seed": 123 + k, "backend": target.backend}
    if op == "gumbel_softmax":
        counts = gumbel_softmax(logits, hard=True, **options).sum(1 - dim, dtype=torch.float64).cpu().numpy()
    else:
        counts = gumbel_argmax(logits, **options).bincount(minlength=k).cpu().numpy()
    assert counts.sum() == rows
    expected = rows * torch.softmax(values.double(), 0).numpy()
    order = np.argsort(expected)
    pools = np.cumsum(expected[order]) // 20  # at least about 20 expected in a pool
    observed = np.bincount(np.unique(pools, return_inverse=True)[1], weights=counts[order])
    expected = np.bincount(np.unique(pools, return_inverse=True)[1], weights=expected[order])
    assert len(observed) > 1
    assert stats.chisquare(observed, expected).pvalue > ALARM


def assert_poisson(count: int, expected: float) -> None:
    assert ALARM < stats.poisson.cdf(count, expected) and stats.poisson.sf(count - 1, expected) > ALARM, count


def test_a_gap_of_17_nats_is_crossed_at_the_right_rate(target: Target) -> None:
    """In 2^31 draws. Noise that ends at 16.6, as that of 24-bit uniforms does, would cross it six times less often."""
    if target.backend == "reference" or target.capability == "baseline":
        pytest.skip("takes too long")
    rows, k, gap = 1 << 18, 1 << 13, 17.0
    logits = torch.zeros(k, device=target.device)
    logits[5] = gap
    index = gumbel_argmax(logits.expand(rows, k), seed=8, backend=target.backend)
    assert_poisson(int((index != 5).sum()), rows * (k - 1) / (k - 1 + np.exp(gap)))


def test_noise_follows_the_gumbel_distribution(target: Target) -> None:
    """The logarithm of the odds of two categories is logistic: Kolmogorov-Smirnov, and the moments."""
    rows = 200_000
    logits = torch.zeros(rows, 2, dtype=torch.float64, device=target.device)
    y = gumbel_softmax(logits, seed=77, backend=target.backend).cpu()
    odds = (y[:, 0] / y[:, 1]).log().numpy()
    assert stats.kstest(odds, "logistic").pvalue > ALARM
    deviation = np.pi / 3**0.5  # of the logistic distribution; its kurtosis is 4.2
    assert abs(odds.mean()) < 5 * deviation / rows**0.5
    assert abs(odds.var() / deviation**2 - 1) < 5 * (3.2 / rows) ** 0.5


@pytest.mark.parametrize("tau", [0.3, 1.0, 3.0])
def test_soft_samples_follow_the_concrete_distribution(target: Target, tau: float) -> None:
    """Of two categories, logit(y) * tau - (l0 - l1) is logistic (Maddison et al. 2017, section 3.2)."""
    rows = 50_000
    logits = torch.tensor([0.8, -0.5], dtype=torch.float64, device=target.device).expand(rows, 2)
    y = gumbel_softmax(logits, tau, seed=5, backend=target.backend).cpu().log()
    assert stats.kstest((tau * (y[:, 0] - y[:, 1]) - 1.3).numpy(), "logistic").pvalue > ALARM


def test_columns_and_rows_are_uncorrelated(target: Target) -> None:
    rows = 100_000
    logits = torch.zeros(rows, 8, dtype=torch.float64, device=target.device)
    y = gumbel_softmax(logits, seed=3, backend=target.backend).cpu().log()
    noise = (y - y.mean(1, keepdim=True)).numpy()  # each with correlation -1/7 to the others of its row
    limit = 5.5 / rows**0.5
    correlation = np.corrcoef(noise.T)
    assert np.abs(correlation[~np.eye(8, dtype=bool)] + 1 / 7).max() < limit
    for lag in (1, 2, 4, 32):
        shifted = np.corrcoef(noise[:-lag].T, noise[lag:].T)[:8, 8:]
        assert np.abs(shifted).max() < limit


@pytest.mark.parametrize("tau", [0.4, 1.0, 2.5])
def test_the_density_of_relaxed_samples(target: Target, tau: float) -> None:
    """torch's; and over the simplex of three categories, y = softmax(u, v, 0), it integrates to one."""
    logits = torch.tensor([0.9, -0.4, 0.1], dtype=torch.float64, device=target.device)
    y = gumbel_softmax(logits.expand(1000, 3), tau, seed=1, backend=target.backend)
    log_prob = gumbel_softmax_log_prob(y, logits, tau, backend=target.backend)
    expected = torch.distributions.RelaxedOneHotCategorical(
        torch.tensor(tau, dtype=torch.float64, device=target.device), logits=logits, validate_args=False
    ).log_prob(y)
    torch.testing.assert_close(log_prob, expected, rtol=1e-9, atol=1e-9)

    step = 0.15 / tau
    axis = step * torch.arange(-200, 201, dtype=torch.float64, device=target.device)
    u, v = torch.meshgrid(axis, axis, indexing="ij")
    log_y = torch.log_softmax(torch.stack([u, v, torch.zeros_like(u)], -1), -1)
    # the volume of dy1 dy2 is y1 y2 y3 du dv
    density = gumbel_softmax_log_prob(log_y.exp(), logits, tau, backend=target.backend) + log_y.sum(-1)
    assert abs(density.exp().sum().item() * step**2 - 1) < 1e-6
