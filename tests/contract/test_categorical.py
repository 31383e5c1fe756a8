"""What the categorical divergence and the concrete density alone promise: special values, precision near zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conftest import Target
from dvae_kernels import categorical_kl, gumbel_softmax_log_prob

INF, NAN = math.inf, math.nan
ROWS = [[0, -INF, 1], [-INF, -INF, -INF], [0, INF, 1], [0, NAN, -INF], [1, 2, 3]]
PRIORS = {
    "uniform": None,
    "finite": [[0, 0, 0], [1, 2, 3], [3, 0, 1], [0, 1, 0], [3, 2, 1]],
    "masked": [[2, -INF, 1], [0, -INF, 0], [0, 0, -INF], [0, 0, 0], [0, -INF, 3]],
    "nothing": [[-INF] * 3, [-INF] * 3, [0, NAN, 1], [0, INF, 1], [NAN, 0, 0]],
}


def laid_out(rows: list[list[float]], k: int, dim: int, target: Target) -> Tensor:
    """The rows, filled up with masks to k categories along `dim`."""
    x = torch.full((len(rows), k), -INF)
    x[:, : len(rows[0])] = torch.tensor(rows)
    return (x if dim else x.t().contiguous()).to(target.device)


def agree(target: Target, function: object, *inputs: Tensor) -> list[Tensor]:
    """The backend's value and gradients, equal to the reference's wherever those are not both infinite or NaN."""
    results = []
    for backend in (target.backend, "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves, backend)  # type: ignore[operator]
        results.append([value.detach(), *torch.autograd.grad(value.sum(), leaves)])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    return results[0]


@pytest.mark.parametrize("dim", [1, 0])
@pytest.mark.parametrize("k", [3, 90])
@pytest.mark.parametrize("prior", PRIORS)
def test_special_values_of_the_divergence(target: Target, prior: str, k: int, dim: int) -> None:
    inputs = [laid_out(rows, k, dim, target) for rows in (ROWS, PRIORS[prior]) if rows is not None]
    kl, dlogits, *_ = agree(
        target, lambda *args: categorical_kl(args[0], args[1] if len(args) > 2 else None, dim=dim, backend=args[-1]),
        *inputs,
    )  # fmt: skip
    dlogits = dlogits if dim else dlogits.t()
    assert kl[1:4].isnan().all() and not dlogits[1].any() and dlogits[2:4].isnan().all()
    if prior in ("uniform", "finite"):
        assert kl[0].isfinite() and kl[4].isfinite() and not dlogits[0][inputs[0][:, 0] == -INF if not dim else 1].any()
    elif prior == "masked":
        assert kl[0].isfinite() and kl[4] == INF
    else:
        assert kl[0] == INF and kl[4].isnan()


@pytest.mark.parametrize("dim", [1, 0])
@pytest.mark.parametrize("k", [3, 90])
@pytest.mark.parametrize("tau", [0.5, -1.0, 0.0, INF, NAN])
def test_special_values_of_the_density(target: Target, tau: float, k: int, dim: int) -> None:
    samples = [[0.5, NAN, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0, 1e-42, 1]]
    y = laid_out(samples, k, dim, target).clamp_min(0)  # NaN stays
    inputs = (y, laid_out(ROWS, k, dim, target), torch.tensor(tau, device=target.device))
    density, dy, dlogits, dtau = agree(
        target, lambda y, x, t, backend: gumbel_softmax_log_prob(y, x, t, dim=dim, backend=backend), *inputs
    )
    dy, dlogits = (x if dim else x.t() for x in (dy, dlogits))
    assert density[1:4].isnan().all()
    if tau == 0.5:
        assert density[0].isfinite() and not dy[0, 1].any() and not dlogits[0, 1].any()
        assert not dy[1].any() and not dlogits[1].any() and dlogits[2:4].isnan().all()
        assert density[4].isfinite() and not dy[4, :2].any() and dy[4, 2] != 0
    else:
        assert density.isnan().all() and dtau.isnan()


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("shape, dim", [((4, 1000), 1), ((1000, 20), 0), ((20, 30), 1)])
def test_small_divergences_keep_their_digits(
    target: Target, shape: tuple[int, int], dim: int, with_prior: bool
) -> None:
    generator = torch.Generator().manual_seed(2)
    prior = torch.randn(shape, generator=generator) if with_prior else None
    logits = (0 if prior is None else prior) + 1e-3 * torch.randn(shape, generator=generator)
    exact = categorical_kl(
        logits.double(), None if prior is None else prior.double(), dim=dim, backend="reference"
    )  # fmt: skip
    assert exact.max() < 1e-6
    on = target.device
    kl = categorical_kl(logits.to(on), None if prior is None else prior.to(on), dim=dim, backend=target.backend)
    torch.testing.assert_close(kl.cpu().double(), exact, rtol=2e-4 if with_prior else 1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 8])
def test_certain_and_equal_distributions(target: Target, k: int) -> None:
    logits = torch.randn(5, k, generator=torch.Generator().manual_seed(0)).to(target.device)
    torch.testing.assert_close(
        categorical_kl(logits, prior=logits, backend=target.backend), logits.new_zeros(5), rtol=0, atol=1e-12
    )
    peak = torch.full((3, k), -1e4, device=target.device)
    peak[:, 0] = 0
    torch.testing.assert_close(categorical_kl(peak, backend=target.backend), peak.new_full((3,), math.log(k)))
