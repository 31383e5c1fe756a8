"""What the concrete density alone promises: special values."""

from __future__ import annotations

import pytest
import torch

from dvae_kernels import gumbel_softmax_log_prob
from kit.targets import Target
from ops.categorical_kl.cases import INF, NAN, ROWS, agree, laid_out


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
