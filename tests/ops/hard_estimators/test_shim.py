"""The CUDA kernels of ReinMax and Gumbel-Rao through the host shim; see gumbel_softmax's test_shim.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.gumbel_softmax.reference import gumbel_argmax, gumbel_onehot
from dvae_kernels.ops.hard_estimators import reference
from kit.dtypes import PAIRS
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract, noise_key
from kit.shim import H100_SHARED, RowShim, assert_near, compile_shim, cuda_overloads, guard_bands, in_every_row_kernel
from ops.hard_estimators.cases import CASES


class Shim(RowShim):
    def reinmax_bwd(
        self, grad: Tensor, logits: Tensor, index: Tensor, tau: Tensor | None, tau_value: float, dim: int
    ) -> Tensor:
        dlogits = torch.empty_like(logits)
        options = {"tau": tau, "tau_value": tau_value, "row_parts": index.contiguous()}
        self.run("shim_reinmax_bwd", [grad, logits, dlogits], dim, **options)
        return dlogits

    def gumbel_rao_bwd(self, grad: Tensor, logits: Tensor, key: Tensor, index: Tensor, tau: Tensor | None,
                       tau_value: float, dim: int, draws: int, row_offset: int) -> Tensor:  # fmt: skip
        dlogits = torch.empty_like(logits)
        options = {"tau": tau, "tau_value": tau_value, "row_parts": index.contiguous(), "key": key}
        self.run("shim_gumbel_rao_bwd", [grad, logits, dlogits], dim, draws, row_offset=row_offset, **options)
        return dlogits

    def wide(self, logits: Tensor, dim: int) -> bool:
        """Whether Gumbel-Rao's rows do not fit on chip."""
        index, tensors = gumbel_argmax(logits, noise_key(0), dim, 0), [logits, logits, torch.empty_like(logits)]
        return self.call("shim_gumbel_rao_bwd", tensors, dim, 1, key=noise_key(0), row_parts=index) == 2


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("hard_estimators"))
    ops = {"reinmax_bwd": shim.reinmax_bwd, "gumbel_rao_bwd": shim.gumbel_rao_bwd, "gumbel_onehot": gumbel_onehot}
    with cuda_overloads(ops):
        yield shim


@pytest.mark.parametrize("case", [case for case in CASES if "straight_through" not in case.name], ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@in_every_row_kernel
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dim: int, shared_limit: int
) -> None:
    """Every dtype pair, with rows that fit in shared memory and rows that do not; nothing else is written."""
    key, row_offset = noise_key(3), 5
    with guard_bands(monkeypatch, shim, shared_limit):
        for narrow, wide in PAIRS:
            tau = torch.tensor(1.25, dtype=compute_dtype(narrow))
            generator = torch.Generator().manual_seed(1)
            logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(narrow)
            grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(wide)
            index = gumbel_argmax(logits.double(), key, dim, row_offset)
            exact, eps = (grad.double(), logits.double()), 2 * max(torch.finfo(narrow).eps, 2e-5)
            reinmax = shim.reinmax_bwd(grad, logits, index, tau, 0.0, dim)
            assert_near(reinmax, reference.reinmax_bwd(*exact, index, None, 1.25, dim), eps)
            rao = shim.gumbel_rao_bwd(grad, logits, key, index, tau, 0.0, dim, 3, row_offset)
            expected = reference.gumbel_rao_bwd(*exact, key, index, None, 1.25, dim, 3, row_offset)
            assert_near(rao, expected, eps)


def test_rows_that_do_not_fit_take_the_wide_kernel(shim: Shim) -> None:
    assert not shim.wide(torch.zeros(2, 14000), 1) and shim.wide(torch.zeros(1, 15000), 1)
    assert not shim.wide(torch.zeros(1, 512, 9), 1) and shim.wide(torch.zeros(1, 1100, 9), 1)


@pytest.mark.parametrize("shared_limit", [H100_SHARED, 4 << 10], ids=["fits", "4K"])
@pytest.mark.parametrize("shape,dim", [((4, 8), 1), ((4, 7), 1), ((4, 1100), 1), ((8, 6), 0)], ids=str)
@pytest.mark.parametrize("tau", [1.0, 0.0, 1e-40, 3e38, -1.0, float("nan"), float("inf")])
def test_special_values(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dim: int, tau: float, shared_limit: int
) -> None:
    """Masks, empty rows, NaN and infinities, for every kind of temperature, as the reference has them."""
    monkeypatch.setattr(shim, "shared_limit", shared_limit)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).movedim(dim, -1)
    logits[0, ::2] = -torch.inf
    logits[1] = -torch.inf
    logits[2, -1] = torch.nan
    logits[3, 1] = torch.inf
    logits = logits.movedim(-1, dim)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    key, t = noise_key(0), torch.tensor(tau)
    index = gumbel_argmax(logits, key, dim, 0)
    assert (index == -1).sum() == 1 and (index == -2).sum() == 2
    for ours, plain, args in (
        (shim.reinmax_bwd, reference.reinmax_bwd, (grad, logits, index, t, 0.0, dim)),
        (shim.gumbel_rao_bwd, reference.gumbel_rao_bwd, (grad, logits, key, index, t, 0.0, dim, 2, 0)),
    ):
        torch.testing.assert_close(ours(*args), plain(*args), rtol=2e-5, atol=2e-6, equal_nan=True)
