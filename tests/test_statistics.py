"""Samples follow their distribution: fixed seeds, thresholds with a false alarm in a million."""

from __future__ import annotations

import pytest
import torch

from dvae_kernels import (
    binary_concrete,
    binary_concrete_log_prob,
    gumbel_argmax,
    gumbel_softmax,
    gumbel_softmax_log_prob,
)
from kit.targets import Target

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


@pytest.mark.parametrize("tau", [0.7, 1.0, 3.0])
def test_binary_samples_follow_the_binary_concrete_distribution(target: Target, tau: float) -> None:
    """logit(y) * tau - l is logistic (Maddison et al. 2017, appendix B): its distribution and its moments."""
    count = 100_000
    logits = torch.tensor(0.8, dtype=torch.float64, device=target.device).expand(count)
    y = binary_concrete(logits, tau, seed=6, backend=target.backend).cpu()
    noise = (tau * y.logit() - 0.8).numpy()
    assert stats.kstest(noise, "logistic").pvalue > ALARM
    deviation = np.pi / 3**0.5
    assert abs(noise.mean()) < 5 * deviation / count**0.5
    assert abs(noise.var() / deviation**2 - 1) < 5 * (3.2 / count) ** 0.5
    for lag in (1, 2, 3, 4, 32):
        assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 5.5 / count**0.5


@pytest.mark.parametrize("logit", [-2.0, 0.0, 0.7])
def test_hard_binary_samples_are_bernoulli(target: Target, logit: float) -> None:
    count = 500_000
    ones = binary_concrete(
        torch.tensor(logit, device=target.device).expand(count), hard=True, seed=7, backend=target.backend
    ).sum()
    p = 1 / (1 + np.exp(-logit))
    assert stats.binomtest(int(ones), count, p).pvalue > ALARM


def test_the_tails_of_logistic_noise_are_symmetric(target: Target) -> None:
    """Odds of e^13 are beaten as often from below as from above, in 2^26 draws."""
    if target.backend == "reference" or target.capability == "baseline":
        pytest.skip("takes too long")
    block, blocks, odds = 1 << 24, 4, 13.0
    for sign in (-1, 1):
        logits = torch.tensor(sign * odds, dtype=torch.float16, device=target.device).expand(block)
        rare = 0
        for i in range(blocks):
            y = binary_concrete(logits, hard=True, seed=9, index_offset=i * block, backend=target.backend)
            rare += int((y != (sign > 0)).sum())
        assert_poisson(rare, blocks * block / (1 + np.exp(odds)))


@pytest.mark.parametrize("tau", [0.4, 1.0, 2.5])
def test_the_density_of_relaxed_bits(target: Target, tau: float) -> None:
    """torch's; and it integrates to one over y = sigmoid(u)."""
    options = {"dtype": torch.float64, "device": target.device}
    logits = torch.tensor(0.6, **options)
    y = binary_concrete(logits.expand(1000), tau, seed=1, backend=target.backend)
    log_prob = binary_concrete_log_prob(y, logits, tau, backend=target.backend)
    expected = torch.distributions.RelaxedBernoulli(
        torch.tensor(tau, **options), logits=logits, validate_args=False
    ).log_prob(y)
    inside = (y > 1e-6) & (y < 1 - 1e-6)  # beyond, torch clamps
    torch.testing.assert_close(log_prob[inside], expected[inside], rtol=1e-8, atol=1e-8)

    step = 0.05 / tau
    u = step * torch.arange(-400, 401, **options)
    log_volume = torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
    density = binary_concrete_log_prob(u.sigmoid(), logits, tau, backend=target.backend) + log_volume
    assert abs(density.exp().sum().item() * step - 1) < 1e-6
