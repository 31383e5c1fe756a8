"""What the categorical divergence alone promises: special values, precision near zero."""

from __future__ import annotations

import math

import pytest
import torch

from dvae_kernels import categorical_kl
from kit.targets import Target
from ops.categorical_kl.cases import INF, NAN, ROWS, agree, laid_out

PRIORS = {
    "uniform": None,
    "finite": [[0, 0, 0], [1, 2, 3], [3, 0, 1], [0, 1, 0], [3, 2, 1]],
    "masked": [[2, -INF, 1], [0, -INF, 0], [0, 0, -INF], [0, 0, 0], [0, -INF, 3]],
    "nothing": [[-INF] * 3, [-INF] * 3, [0, NAN, 1], [0, INF, 1], [NAN, 0, 0]],
}


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
