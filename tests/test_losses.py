"""The losses against torch.distributions in float64, their gradients, and their edges."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from dvae_kernels.losses import bernoulli_log_likelihood, categorical_kl


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_categorical_kl_is_the_divergence_from_uniform(dtype: torch.dtype, dim: int) -> None:
    logits = 5 * torch.randn(3, 7, 4, dtype=dtype)
    rows = logits.double().movedim(dim, -1)
    expected = kl_divergence(Categorical(logits=rows), Categorical(logits=torch.zeros_like(rows)))
    result = categorical_kl(logits, dim)
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
    assert torch.autograd.gradcheck(lambda t: categorical_kl(t, 1), logits)
    assert torch.autograd.gradgradcheck(lambda t: categorical_kl(t, 1), logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
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


def test_bernoulli_log_likelihood_does_not_overflow() -> None:
    logits = torch.tensor([1e4, 1e4, -1e4, -1e4])
    x = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert bernoulli_log_likelihood(logits, x).tolist() == [0, -1e4, -1e4, 0]


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="expected floating-point logits, got int64"):
        categorical_kl(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected dim in"):
        categorical_kl(torch.zeros(3), dim=1)
    with pytest.raises(TypeError, match="expected floating-point x, got bool"):
        bernoulli_log_likelihood(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected x of shape \(3,\), got \(2, 3\)"):
        bernoulli_log_likelihood(torch.zeros(3), torch.zeros(2, 3))
