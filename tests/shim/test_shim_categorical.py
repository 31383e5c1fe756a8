"""The CUDA kernels of the categorical divergence and the concrete density on the CPU, through the host shim."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from loader import DTYPES, H100_SHARED, SHAPES, RowShim, compile_shim, cuda_overloads, guarded_empty_like
from torch import Tensor

from contract.harness import Case, assert_keeps_the_contract
from contract.ops.categorical import ROOM, reference
from dvae_kernels import _rng
from dvae_kernels._rows import new_rows, new_tau_rows


class Shim(RowShim):
    def rows(self, logits: Tensor, dim: int) -> Tensor:
        return new_rows(logits, dim, _rng.compute_dtype(logits.dtype))

    def kl_fwd(self, logits: Tensor, prior: Tensor | None, dim: int) -> Tensor:
        kl = self.rows(logits, dim)
        if not logits.numel():
            return kl.zero_()
        self.run("shim_kl_fwd", [logits if prior is None else prior, logits], dim, prior is not None, outputs=0,
                 row_parts=kl)  # fmt: skip
        return kl

    def kl_bwd(
        self, grad: Tensor, logits: Tensor, prior: Tensor | None, dim: int, prior_grad: bool
    ) -> tuple[Tensor, Tensor]:
        dlogits = torch.empty_like(logits)
        dprior = torch.empty_like(logits) if prior_grad else logits.new_empty((0,))
        tensors = [logits, logits if prior is None else prior, dprior if prior_grad else logits, dlogits]
        self.run("shim_kl_bwd", tensors, dim, prior is not None, prior_grad, pointer(grad := grad.contiguous()),
                 outputs=2 if prior_grad else 1)  # fmt: skip
        return dlogits, dprior

    def log_prob_fwd(
        self, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int
    ) -> tuple[Tensor, Tensor]:
        density, count = self.rows(logits, dim), self.rows(logits, dim)
        if not logits.numel():
            return density.zero_(), count.zero_()
        self.run("shim_log_prob_fwd", [y, logits], dim, pointer(density), pointer(count), outputs=0, tau=tau,
                 tau_value=tau_value)  # fmt: skip
        return density, count

    def log_prob_bwd(
        self, grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float, dim: int, tau_grad: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        dy, dlogits = torch.empty_like(y), torch.empty_like(logits)
        rows = new_tau_rows(logits, dim, tau_grad)
        self.run("shim_log_prob_bwd", [y, logits, dy, dlogits], dim, pointer(grad := grad.contiguous()), outputs=2,
                 tau=tau, tau_value=tau_value, row_parts=rows if tau_grad else None)  # fmt: skip
        return dy, dlogits, rows


def pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("categorical"))
    functions = {
        "categorical_kl_fwd": shim.kl_fwd,
        "categorical_kl_bwd": shim.kl_bwd,
        "gumbel_softmax_log_prob_fwd": shim.log_prob_fwd,
        "gumbel_softmax_log_prob_bwd": shim.log_prob_bwd,
    }
    with cuda_overloads(functions):
        yield shim


@pytest.mark.parametrize("case", [case for case in ROOM.cases if not case.slow_interpreted], ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@pytest.mark.parametrize("shared_limit", [H100_SHARED, 12 << 10, 4 << 10], ids=["fits", "12K", "4K"])
@pytest.mark.parametrize("shape,dim", SHAPES, ids=str)
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dim: int, shared_limit: int
) -> None:
    """Every dtype pair, with rows that fit in shared memory and rows that do not; nothing else is written."""
    monkeypatch.setattr(shim, "shared_limit", shared_limit)
    verify = guarded_empty_like(monkeypatch)
    for narrow, wide in DTYPES:
        generator = torch.Generator().manual_seed(1)
        logits, prior, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
        logits, prior, y = logits.to(narrow), prior.to(narrow), y.abs().add(0.1).to(wide)
        tau = torch.tensor(0.75, dtype=_rng.compute_dtype(narrow))
        grad = torch.randn(new_rows(logits, dim, tau.dtype).shape, generator=generator, dtype=tau.dtype)
        exact = [x.double() for x in (logits, prior, y, tau, grad)]
        kl = [(shim.kl_fwd(logits, p, dim), reference.categorical_kl_fwd(exact[0], q, dim))
              for p, q in ((None, None), (prior, exact[1]))]  # fmt: skip
        results = [
            *kl,
            *zip(shim.kl_bwd(grad, logits, prior, dim, True),
                 reference.categorical_kl_bwd(exact[4], exact[0], exact[1], dim, True)),
            *zip(shim.log_prob_fwd(y, logits, tau, 0.0, dim),
                 reference.gumbel_softmax_log_prob_fwd(exact[2], exact[0], exact[3], 0.0, dim)),
            *zip(shim.log_prob_bwd(grad, y, logits, tau, 0.0, dim, True),
                 reference.gumbel_softmax_log_prob_bwd(exact[4], exact[2], exact[0], exact[3], 0.0, dim, True)),
        ]  # fmt: skip
        for actual, expected in results:
            eps = 1e-13 if actual.dtype == torch.float64 else 2 * max(torch.finfo(actual.dtype).eps, 1e-5)
            torch.testing.assert_close(actual.double(), expected, rtol=eps, atol=eps * expected.abs().max())
    verify()
