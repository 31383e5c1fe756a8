"""The CUDA kernels of the concrete density on the CPU, through the host shim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._rows import new_rows, new_tau_rows
from dvae_kernels.ops.gumbel_softmax_log_prob import reference
from kit.dtypes import PAIRS
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract
from kit.shim import RowShim, address, assert_near, compile_shim, cuda_overloads, guard_bands, in_every_row_kernel
from ops.gumbel_softmax_log_prob.cases import OPINFO


class Shim(RowShim):
    def rows(self, logits: Tensor, dim: int) -> Tensor:
        return new_rows(logits, dim, compute_dtype(logits.dtype))

    def log_prob_fwd(
        self, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int
    ) -> tuple[Tensor, Tensor]:
        density, count = self.rows(logits, dim), self.rows(logits, dim)
        if not logits.numel():
            return density.zero_(), count.zero_()
        self.run("shim_log_prob_fwd", [y, logits], dim, address(density), address(count), outputs=0, tau=tau,
                 tau_value=tau_value)  # fmt: skip
        return density, count

    def log_prob_bwd(
        self, grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int, tau_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        dy, dlogits = torch.empty_like(y), torch.empty_like(logits)
        rows = new_tau_rows(logits, dim, tau_grad)
        self.run("shim_log_prob_bwd", [y, logits, dy, dlogits], dim, address(grad := grad.contiguous()), outputs=2,
                 tau=tau, tau_value=tau_value, row_parts=rows if tau_grad else None)  # fmt: skip
        return dy, dlogits, rows


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("gumbel_softmax_log_prob"))
    functions = {
        "gumbel_softmax_log_prob_fwd": shim.log_prob_fwd,
        "gumbel_softmax_log_prob_bwd": shim.log_prob_bwd,
    }
    with cuda_overloads(functions):
        yield shim


@pytest.mark.parametrize("case", [case for case in OPINFO.cases if not case.slow_interpreted], ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@in_every_row_kernel
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dim: int, shared_limit: int
) -> None:
    """Every dtype pair, with rows that fit in shared memory and rows that do not; nothing else is written."""
    with guard_bands(monkeypatch, shim, shared_limit):
        for narrow, wide in PAIRS:
            generator = torch.Generator().manual_seed(1)
            logits, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
            logits, y = logits.to(narrow), y.abs().add(0.1).to(wide)
            tau = torch.tensor(0.75, dtype=compute_dtype(narrow))
            grad = torch.randn(new_rows(logits, dim, tau.dtype).shape, generator=generator, dtype=tau.dtype)
            exact = [x.double() for x in (logits, y, tau, grad)]
            results = [
                *zip(shim.log_prob_fwd(y, logits, tau, 0.0, dim),
                     reference.gumbel_softmax_log_prob_fwd(exact[1], exact[0], exact[2], 0.0, dim)),
                *zip(shim.log_prob_bwd(grad, y, logits, tau, 0.0, dim, True),
                     reference.gumbel_softmax_log_prob_bwd(exact[3], exact[1], exact[0], exact[2], 0.0, dim, True)),
            ]  # fmt: skip
            for actual, expected in results:
                assert_near(actual, expected)
