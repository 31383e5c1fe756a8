"""The losses against torch.distributions in float64, their gradients, and their edges."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from dvae_kernels.losses import bernoulli_kl, bernoulli_log_likelihood, categorical_kl
from kit.dtypes import HALVES


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_categorical_kl_is_the_divergence_from_uniform(dtype: torch.dtype, dim: int) -> None:
    logits = 5 * torch.randn(3, 7, 4, dtype=dtype)
    rows = logits.double().movedim(dim, -1)
    expected = kl_divergence(Categorical(logits=rows), Categorical(logits=torch.zeros_like(rows)))
    result = categorical_kl(logits, dim=dim)
    assert result.dtype == dtype
    # a difference of terms of size log K, so absolute error in units of log K
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps * math.log(7))


def test_categorical_kl_bounds() -> None:
    assert categorical_kl(torch.full((8,), 3.0)).item() == pytest.approx(0, abs=1e-6)
    assert categorical_kl(torch.tensor([1000.0, 0, 0, 0])).item() == pytest.approx(math.log(4))
    assert categorical_kl(torch.zeros(5, 1)).tolist() == [0] * 5


def test_categorical_kl_of_masked_logits() -> None:
    logits = torch.tensor([0.3, -torch.inf, -0.2, -torch.inf], dtype=torch.float64, requires_grad=True)
    kl = categorical_kl(logits)
    (grad,) = torch.autograd.grad(kl, logits)
    kept = logits.detach()[[0, 2]].requires_grad_()
    kl_kept = categorical_kl(kept) + math.log(2)  # uniform over 4 instead of 2
    (grad_kept,) = torch.autograd.grad(kl_kept, kept)
    torch.testing.assert_close(kl, kl_kept)
    torch.testing.assert_close(grad[[0, 2]], grad_kept)
    assert grad[[1, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_categorical_kl_of_no_distribution_is_nan(row: list[float]) -> None:
    assert categorical_kl(torch.tensor(row)).isnan()


def test_categorical_kl_gradients() -> None:
    logits = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: categorical_kl(t, dim=1), logits)
    assert torch.autograd.gradgradcheck(lambda t: categorical_kl(t, dim=1), logits)


@pytest.mark.parametrize("dtype", HALVES)
def test_categorical_kl_computes_halves_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 1000).to(dtype)
    result = categorical_kl(logits)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, categorical_kl(logits.float()), rtol=0, atol=0)


def test_bernoulli_log_likelihood() -> None:
    logits = 5 * torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    x = torch.bernoulli(torch.rand_like(logits))
    torch.testing.assert_close(bernoulli_log_likelihood(logits, x), Bernoulli(logits=logits).log_prob(x))
    assert torch.autograd.gradcheck(lambda t: bernoulli_log_likelihood(t, x), logits)


def test_bernoulli_log_likelihood_names_what_does_not_fit() -> None:
    logits = torch.zeros(3)
    with pytest.raises(TypeError, match=r"^bernoulli_log_likelihood: expected x of dtype float32, got float16$"):
        bernoulli_log_likelihood(logits, torch.rand(3).half())
    with pytest.raises(ValueError, match=r"^bernoulli_log_likelihood: expected x on cpu, got meta$"):
        bernoulli_log_likelihood(logits, torch.rand(3, device="meta"))


def test_bernoulli_log_likelihood_does_not_overflow() -> None:
    logits = torch.tensor([1e4, 1e4, -1e4, -1e4])
    x = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert bernoulli_log_likelihood(logits, x).tolist() == [0, -1e4, -1e4, 0]


def exact_bernoulli_kl(logit: float, prior: float) -> mpmath.mpf:
    with mpmath.workdps(120):
        (p, q), (m, n) = ((1 / (1 + mpmath.exp(-s)), 1 / (1 + mpmath.exp(s))) for s in map(mpmath.mpf, (logit, prior)))
        return p * mpmath.log(p / m) + q * mpmath.log(q / n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_kl_keeps_its_relative_accuracy(dtype: torch.dtype) -> None:
    """Also where p is close to the prior's, and where both are close to 0 or 1."""
    logits = torch.tensor([-80, -30, -10, -1, -1e-3, 0, 0.1, 2, 7, 20, 80], dtype=dtype)[:, None]
    distance = torch.tensor([1e-6, 1e-3, -0.01, -0.24, 0.26, -0.9, 1, -5, 10, 40, -100], dtype=dtype)
    prior = logits - distance
    limits = torch.finfo(dtype)
    rounding = 48 * limits.eps  # the terms of a small divergence are up to eight times as large
    pairs = torch.stack([logits.expand_as(prior), prior], -1).flatten(0, 1)
    for (logit, other), actual in zip(pairs.tolist(), bernoulli_kl(*pairs.T).tolist()):
        exact = exact_bernoulli_kl(logit, other)
        assert abs(actual - exact) <= rounding * exact + limits.tiny, (logit, other)
    for logit, actual in zip(logits.flatten().tolist(), bernoulli_kl(logits).flatten().tolist()):
        exact = exact_bernoulli_kl(logit, 0)
        assert abs(actual - exact) <= rounding * exact + limits.tiny, logit


def test_bernoulli_kl_gradients() -> None:
    logits = (3 * torch.randn(5, 4, dtype=torch.float64)).requires_grad_()
    prior = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bernoulli_kl, (logits, prior))
    assert torch.autograd.gradgradcheck(bernoulli_kl, (logits, prior))
    assert torch.autograd.gradcheck(bernoulli_kl, logits)
    per_element = torch.func.vmap(torch.func.grad(bernoulli_kl))(logits.flatten())
    p = logits.sigmoid()
    torch.testing.assert_close(per_element, (p * (1 - p) * logits).flatten())


def test_bernoulli_kl_of_certain_bits() -> None:
    inf = math.inf
    logits = torch.tensor([-inf, inf, -inf, inf, 1e30, -1e30, 200], requires_grad=True)
    prior = torch.tensor([0, 1, -inf, inf, 0, -1, 200], requires_grad=True)
    kl = bernoulli_kl(logits, prior)
    dlogits, dprior = torch.autograd.grad(kl.sum(), (logits, prior))
    log2, softplus = math.log(2), math.log1p(math.exp(-1))
    torch.testing.assert_close(kl, torch.tensor([log2, softplus, 0, 0, log2, softplus, 0]))
    assert dlogits.tolist() == [0] * 7
    m = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(dprior, torch.tensor([0.5, m - 1, 0, 0, -0.5, 1 - m, 0]))
    assert bernoulli_kl(torch.tensor([0, inf, -inf]), torch.tensor([inf, -inf, inf])).tolist() == [inf] * 3
    assert bernoulli_kl(torch.tensor([math.nan, -inf]), torch.tensor([0, math.nan])).isnan().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_bernoulli_kl_computes_halves_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(50).to(dtype).requires_grad_()
    result = bernoulli_kl(logits)
    (grad,) = torch.autograd.grad(result.sum(), logits)
    assert (result.dtype, grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(result, bernoulli_kl(logits.float()), rtol=0, atol=0)


def test_bernoulli_kl_compiles_whole() -> None:
    def divergence_and_gradient(logits: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        kl = bernoulli_kl(logits, prior)
        return kl, torch.autograd.grad(kl.sum(), logits)[0]

    logits, prior = torch.randn(7, requires_grad=True), torch.randn(1)
    kl = torch.compile(bernoulli_kl, fullgraph=True, backend="aot_eager")(logits, prior)
    (grad,) = torch.autograd.grad(kl.sum(), logits)
    torch.testing.assert_close((kl, grad), divergence_and_gradient(logits, prior))


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"^bernoulli_kl: expected floating-point logits, got int64$"):
        bernoulli_kl(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"^bernoulli_kl: expected prior of dtype float32, got float64$"):
        bernoulli_kl(torch.zeros(3), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^bernoulli_kl: expected prior that broadcasts to \(3,\), got shape \(2,\)$"):
        bernoulli_kl(torch.zeros(3), torch.zeros(2))
    with pytest.raises(TypeError, match="expected floating-point logits, got int64"):
        categorical_kl(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected dim in"):
        categorical_kl(torch.zeros(3), dim=1)
    with pytest.raises(TypeError, match="expected floating-point x, got bool"):
        bernoulli_log_likelihood(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected x of shape \(3,\), got \(2, 3\)"):
        bernoulli_log_likelihood(torch.zeros(3), torch.zeros(2, 3))
