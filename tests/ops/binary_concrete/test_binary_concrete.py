"""What the binary concrete ops alone promise: special values, the stream by elements, tails, exact derivatives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from dvae_kernels import _rng, binary_concrete, binary_concrete_log_prob
from dvae_kernels._dtypes import compute_dtype
from kit.dtypes import each_dtype, each_half, skip_in_interpreter
from kit.oracle import noise_key
from kit.targets import Target

INF, NAN = math.inf, math.nan

soft_and_hard = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])


def sample(target: Target, logits: Tensor, tau: float | Tensor = 1.0, hard: bool = False, **options: Any) -> Tensor:
    key = options.pop("key", noise_key(0)).to(target.device)
    return binary_concrete(logits.to(target.device), tau, hard, key=key, backend=target.backend, **options)


def with_gradients(target: Target, logits: Tensor, tau: float | Tensor, hard: bool, **options: Any) -> list[Tensor]:
    """[zeta, gradient to the logits[, gradient to tau]] for a fixed random cotangent, on the CPU."""
    leaves = [logits.detach().to(target.device).requires_grad_()]
    if isinstance(tau, Tensor):
        tau = tau.detach().to(target.device).requires_grad_()
        leaves.append(tau)
    y = sample(target, leaves[0], tau, hard, **options)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y)
    return [x.cpu() for x in (y.detach(), *torch.autograd.grad(y, leaves, g))]


def log_prob(target: Target, y: Tensor, logits: Tensor, tau: float | Tensor) -> list[Tensor]:
    """[log density, gradients to y, the logits and a tensor tau] of their sum, on the CPU."""
    leaves = [x.detach().to(target.device).requires_grad_() for x in (y, logits, tau) if isinstance(x, Tensor)]
    result = binary_concrete_log_prob(
        leaves[0], leaves[1], tau if isinstance(tau, float) else leaves[2], backend=target.backend
    )
    return [x.cpu() for x in (result.detach(), *torch.autograd.grad(result.sum(), leaves))]


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).to(dtype)


# Special values


@soft_and_hard
@pytest.mark.parametrize("tau", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_tau_zero_is_the_hard_sample_without_gradient(target: Target, hard: bool, tau: float | Tensor) -> None:
    logits = random_logits(333)
    logits[:3] = torch.tensor([NAN, INF, -INF])
    y, *grads = with_gradients(target, logits, tau, hard)
    torch.testing.assert_close(y, sample(target, logits, 1.0, True).cpu(), rtol=0, atol=0, equal_nan=True)
    for grad in grads:
        assert (grad == 0).all()


@soft_and_hard
@pytest.mark.parametrize("tau", [-1.0, NAN, INF, -INF])
def test_a_tensor_tau_that_is_no_temperature_gives_nan(target: Target, hard: bool, tau: float) -> None:
    for result in with_gradients(target, random_logits(37), torch.tensor(tau), hard):
        assert result.isnan().all()


@soft_and_hard
@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["float", "tensor"])
@pytest.mark.parametrize("tau", [1e-40, 1e-38, 1e-30])
def test_tiny_tau_is_the_hard_sample(target: Target, hard: bool, tau: float, kind: Any) -> None:
    logits = random_logits(333)
    y, *grads = with_gradients(target, logits, kind(tau), hard)
    assert torch.equal(y, sample(target, logits, 1.0, True).cpu())
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("tau", [1e38, 1e39, 1e300], ids=str)
def test_a_huge_tau_is_a_half(target: Target, tau: float) -> None:
    logits = random_logits(50)
    logits[:2] = torch.tensor([INF, -INF])
    y, dlogits = with_gradients(target, logits, tau, False)
    assert (y[2:] == 0.5).all() and y[:2].tolist() == [1, 0] and dlogits.abs().max() < 1e-37


@soft_and_hard
@each_dtype
@pytest.mark.parametrize("tau", [1.0, 0.0, torch.tensor(0.5)], ids=["float", "zero", "tensor"])
def test_infinite_logits_are_certain_and_nan_stays(
    target: Target, hard: bool, dtype: torch.dtype, tau: float | Tensor
) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(70, dtype=dtype)
    whole, dwhole, *_ = with_gradients(target, logits, tau, hard)
    special = logits.clone()
    special[::7], special[1::7] = -INF, INF
    y, dlogits, *dtau = with_gradients(target, special, tau, hard)
    assert (y[::7] == 0).all() and (y[1::7] == 1).all()
    assert not dlogits[::7].any() and not dlogits[1::7].any()
    assert all(grad.isfinite() for grad in dtau)
    rest = (torch.arange(70) % 7) > 1
    assert torch.equal(y[rest], whole[rest]) and torch.equal(dlogits[rest], dwhole[rest])

    special[5] = NAN
    y, dlogits, *dtau = with_gradients(target, special, tau, hard)
    assert y.isnan().nonzero().flatten().tolist() == [5]
    if isinstance(tau, Tensor) or tau:
        assert dlogits.isnan().nonzero().flatten().tolist() == [5] and all(grad.isnan() for grad in dtau)


@soft_and_hard
def test_the_hard_gradient_is_the_soft_one(target: Target, hard: bool) -> None:
    logits, tau = random_logits(333), torch.tensor(0.6)
    soft, other = (with_gradients(target, logits, tau, h) for h in (False, True))
    assert torch.equal(soft[1], other[1]) and torch.equal(soft[2], other[2])


def test_gradients_survive_where_the_sample_rounds_to_one(target: Target) -> None:
    """1 - zeta is below half a unit of the last place there, and a slope zeta (1 - zeta) would be 0."""
    logits = torch.full((400,), 25.0)
    y, dlogits = with_gradients(target, logits, 1.0, False)
    exact = with_gradients(Target("reference", "cpu"), logits.double(), 1.0, False)[1]
    assert (y == 1).any() and dlogits.all()
    torch.testing.assert_close(dlogits.double(), exact, rtol=1e-5, atol=0)


# The noise stream


@each_dtype
def test_samples_from_exact_arithmetic(target: Target, dtype: torch.dtype) -> None:
    """Against 50 digits, with integers from Python's own arithmetic."""
    skip_in_interpreter(target, dtype)
    logits = random_logits(24, dtype=dtype)
    y = sample(target, logits, 0.5, key=torch.tensor([42, 3]), index_offset=2**34 - 9).cpu()
    noise_error = 1e-14 if dtype == torch.float64 else 4e-6
    with mpmath.workdps(50):
        for i, (logit, zeta) in enumerate(zip(logits.tolist(), y.tolist())):
            u = (word(42, 3, 2**34 - 9 + i) + mpmath.mpf(0.5)) / 2**32
            exact = 1 / (1 + mpmath.exp(-(logit + mpmath.log(u / (1 - u))) / 0.5))
            assert abs(zeta / exact - 1) <= torch.finfo(dtype).eps + noise_error / 0.5 or exact < 1e-5, i


def word(seed: int, offset: int, index: int) -> int:
    mask = 2**32 - 1
    counter, k0, k1 = [index >> 2 & mask, index >> 34, offset, 0], seed & mask, seed >> 32
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [b >> 32 ^ counter[1] ^ k0, b & mask, a >> 32 ^ counter[3] ^ k1, a & mask]
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return counter[index & 3]


@pytest.mark.parametrize("index, bits", [(59535980, 147), (42556706, 256), (44126575, 2**32 - 52)])
def test_both_tails_of_the_noise_reach_the_sample(target: Target, index: int, bits: int) -> None:
    """Noise beyond 16.6, where uniforms of 24 bits end."""
    key = torch.tensor([0, 0])
    assert _rng.element_bits(key, 1, index_offset=index).item() == bits
    noise = _rng.bits_to_logistic(torch.tensor(bits), torch.float64)
    assert abs(noise) > 16.6
    for margin, bit in ((1e-4, 1), (-1e-4, 0)):
        logits = (margin - noise).float().reshape(1)
        assert sample(target, logits, 1.0, True, key=key, index_offset=index).item() == bit


@soft_and_hard
@pytest.mark.parametrize("start", [0, 11, 2**34 - 77, 2**64 - 230], ids=str)
def test_shards_are_slices_of_the_whole(target: Target, hard: bool, start: int) -> None:
    logits, tau = random_logits(230), torch.tensor(0.5)
    whole = sample(target, logits, tau, hard, index_offset=start).cpu()
    for a, b in itertools.pairwise([0, 1, 5, 34, 110, 230]):
        shard = sample(target, logits[a:b], tau, hard, index_offset=start + a).cpu()
        torch.testing.assert_close(shard, whole[a:b], rtol=1e-6, atol=0)
    assert not torch.allclose(whole, sample(target, logits, tau, hard, index_offset=start ^ 1 << 33).cpu())


def test_elements_are_numbered_in_logical_order(target: Target) -> None:
    logits = random_logits(2, 3, 4, 5)
    flat = sample(target, logits.flatten(), 0.7).cpu()
    for layout in (torch.contiguous_format, torch.channels_last):
        y = sample(target, logits.to(memory_format=layout), 0.7).cpu()
        torch.testing.assert_close(y.flatten(), flat, rtol=1e-6, atol=0)
        assert y.is_contiguous(memory_format=layout) or target.backend == "reference"
    columns = sample(target, logits.movedim(0, -1), 0.7).cpu()
    expected = sample(target, logits.movedim(0, -1).contiguous(), 0.7).cpu()
    torch.testing.assert_close(columns, expected, rtol=1e-6, atol=0)


@soft_and_hard
def test_the_key_is_the_identity_of_the_noise(target: Target, hard: bool) -> None:
    logits = random_logits(280)

    def draw(seed: int, offset: int) -> Tensor:
        return sample(target, logits, 1.0, hard, key=torch.tensor([seed, offset]))

    y = draw(5, 1)
    assert torch.equal(y, draw(5, 1))
    assert torch.equal(y, draw(5, 1 + 2**32)), "the offset counts modulo 2^32"
    for other in (draw(6, 1), draw(5, 2), draw(5 + 2**32, 1), draw(-5, 1)):
        assert not torch.equal(y, other)
    seeded = binary_concrete(logits.to(target.device), 1.0, hard, seed=-5, backend=target.backend)
    assert torch.equal(seeded, draw(-5, 0))


@soft_and_hard
@each_half
def test_autocast_gives_float32_from_half_logits(target: Target, hard: bool, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(200, dtype=dtype).to(target.device).requires_grad_()
    with torch.autocast(target.device, dtype=dtype):
        y = sample(target, logits, 0.5, hard)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, sample(target, logits.float(), 0.5, hard))
    y.square().sum().backward()
    assert logits.grad is not None and logits.grad.dtype == dtype


# The log density


def exact_log_prob(y: float, logit: float, tau: float) -> mpmath.mpf:
    t = tau * mpmath.log(mpmath.mpf(y) / (1 - mpmath.mpf(y))) - logit
    return mpmath.log(tau) - t - 2 * mpmath.log1p(mpmath.exp(-t)) - mpmath.log(y) - mpmath.log1p(-mpmath.mpf(y))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.float64, 3e-15)], ids=str)
def test_log_prob_and_its_gradients_from_exact_arithmetic(target: Target, dtype: torch.dtype, tolerance: float) -> None:
    """Against 40 digits and numeric differentiation, from the smallest y to the largest."""
    ys = torch.tensor([1e-35, 1e-10, 0.003, 0.3, 0.5, 0.77, 0.9999, 1 - 2.0**-20, 1 - 2.0**-24], dtype=dtype)
    y, logits = (
        x.flatten() for x in torch.broadcast_tensors(ys, torch.tensor([[-30.0], [-1.5], [0.0], [4.0]]).to(dtype))
    )
    tau = torch.tensor(0.7, dtype=dtype)
    result, dy, dlogits, dtau = log_prob(target, y, logits, tau)
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for i, point in enumerate(zip(y.tolist(), logits.tolist(), [tau.item()] * len(y))):
            exact = exact_log_prob(*point)
            slopes = [mpmath.diff(exact_log_prob, point, order, h=mpmath.mpf(10) ** -50, relative=True)
                      for order in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]  # fmt: skip
            assert abs(result[i].item() - exact) <= tolerance * max(1, abs(exact)), point
            # dy is 1 / (y (1 - y)) times a difference of numbers of the size of 1
            size = 1 / (mpmath.mpf(point[0]) * (1 - mpmath.mpf(point[0])))
            assert abs(dy[i].item() - slopes[0]) <= tolerance * size, point
            assert abs(dlogits[i].item() - slopes[1]) <= tolerance, point
            total += slopes[2]
        assert abs(dtau.item() - total) <= 30 * tolerance * len(y)


@each_dtype
def test_log_prob_is_torchs(target: Target, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    y = torch.sigmoid(random_logits(40)).clamp(0.01, 0.98).to(dtype)
    logits = random_logits(40, dtype=dtype).flip(0)
    theirs = torch.distributions.RelaxedBernoulli(torch.tensor(0.6).double(), logits=logits.double())
    ours = log_prob(target, y, logits, 0.6)[0]
    assert ours.dtype == compute_dtype(dtype)
    torch.testing.assert_close(ours.double(), theirs.log_prob(y.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_prob_takes_y_as_clamped(target: Target, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    bounds = torch.tensor([info.tiny, 1 - info.eps / 2], dtype=dtype)
    outside = torch.tensor([0.0, 1.0], dtype=dtype)
    beyond = torch.tensor([-INF, INF], dtype=dtype)
    logits = torch.tensor([0.4, -0.3], dtype=dtype)
    at_bounds, dy, *grads = log_prob(target, bounds, logits, torch.tensor(0.7, dtype=dtype))
    assert at_bounds.isfinite().all() and dy.all()
    for y in (outside, beyond):
        result, dy, *others = log_prob(target, y, logits, torch.tensor(0.7, dtype=dtype))
        assert torch.equal(result, at_bounds) and not dy.any()
        assert all(map(torch.equal, others, grads))


def test_log_prob_of_special_values(target: Target) -> None:
    y, logits = torch.full((5,), 0.4), torch.tensor([NAN, INF, -INF, 0.5, 1.0])
    y[3] = NAN
    result, dy, dlogits, dtau = log_prob(target, y, logits, torch.tensor(0.7))
    assert result.isnan().tolist() == [True, False, False, True, False]
    assert (result[1:3] == -INF).all() and dlogits[1:3].tolist() == [-1, 1]
    for grad in (dy, dlogits):
        assert grad.isnan().tolist() == [True, False, False, True, False]
    assert dtau.isnan()


@pytest.mark.parametrize("tau", [0.0, -1.0, NAN, INF])
def test_log_prob_with_a_tensor_tau_that_is_none_is_nan(target: Target, tau: float) -> None:
    y = torch.tensor([0.0, 0.3, 1.0])
    for result in log_prob(target, y, torch.zeros(3), torch.tensor(tau)):
        assert result.isnan().all()


@pytest.mark.parametrize("tau", [1e-40, 1e-30, 1e30])
def test_log_prob_at_extreme_temperatures(target: Target, tau: float) -> None:
    y, logits = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.3, 1.0, -2.0])
    for temperature in (tau, torch.tensor(tau)):
        result = log_prob(target, y, logits, temperature)[0]
        exact = log_prob(Target("reference", "cpu"), y.double(), logits.double(), torch.tensor(tau).double().item())[0]
        torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-5)


def test_log_prob_of_a_float_tau_below_the_compute_dtype(target: Target) -> None:
    """As of its smallest positive number, not of 0."""
    y, logits = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.3, 1.0, -2.0])
    result, smallest = (log_prob(target, y, logits, tau)[0] for tau in (1e-50, 2.0**-149))
    assert result.isfinite().all() and torch.equal(result, smallest)


def test_log_prob_integrates_to_one(target: Target) -> None:
    y = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for logit, tau in ((0.0, 1.0), (1.0, 2.0), (-0.7, 1.3)):
        density = log_prob(target, y, torch.tensor(logit, dtype=torch.float64), tau)[0].exp()
        assert abs(density.mean().item() - 1) < 1e-3
