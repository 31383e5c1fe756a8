"""The CUDA kernels of the categorical divergence on the CPU, through the host shim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._rows import new_rows
from dvae_kernels.ops.categorical_kl import reference
from kit.dtypes import FLOATS
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract
from kit.shim import RowShim, address, assert_near, compile_shim, cuda_overloads, guard_bands, in_every_row_kernel
from ops.categorical_kl.cases import OPINFO


class Shim(RowShim):
    def rows(self, logits: Tensor, dim: int) -> Tensor:
        return new_rows(logits, dim, compute_dtype(logits.dtype))

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
        self.run("shim_kl_bwd", tensors, dim, prior is not None, prior_grad, address(grad := grad.contiguous()),
                 outputs=2 if prior_grad else 1)  # fmt: skip
        return dlogits, dprior


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("categorical_kl"))
    functions = {"categorical_kl_fwd": shim.kl_fwd, "categorical_kl_bwd": shim.kl_bwd}
    with cuda_overloads(functions):
        yield shim


@pytest.mark.parametrize("case", [case for case in OPINFO.cases if not case.slow_interpreted], ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@in_every_row_kernel
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dim: int, shared_limit: int
) -> None:
    """Every dtype, with rows that fit in shared memory and rows that do not; nothing else is written."""
    with guard_bands(monkeypatch, shim, shared_limit):
        for narrow in FLOATS:
            generator = torch.Generator().manual_seed(1)
            logits, prior = (torch.randn(shape, generator=generator, dtype=torch.float64).to(narrow) for _ in range(2))
            compute = compute_dtype(narrow)
            grad = torch.randn(new_rows(logits, dim, compute).shape, generator=generator, dtype=compute)
            exact = [x.double() for x in (logits, prior, grad)]
            results = [
                (shim.kl_fwd(logits, None, dim), reference.categorical_kl_fwd(exact[0], None, dim)),
                (shim.kl_fwd(logits, prior, dim), reference.categorical_kl_fwd(exact[0], exact[1], dim)),
                *zip(shim.kl_bwd(grad, logits, prior, dim, True),
                     reference.categorical_kl_bwd(exact[2], exact[0], exact[1], dim, True)),
            ]  # fmt: skip
            for actual, expected in results:
                assert_near(actual, expected)
