"""The CUDA kernels of the binary concrete distribution, compiled by g++ through the host shim."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels import binary_concrete, binary_concrete_log_prob
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._elements import new_block_sums
from dvae_kernels.ops.binary_concrete import reference
from kit.dtypes import PAIRS, STORAGE
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract, noise_key
from kit.shim import ElementCall, ElementShim, compile_shim, cuda_overloads, guarded_empty_like
from ops.binary_concrete.cases import OPINFO


class Shim(ElementShim):
    def fwd(self, logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, hard: bool, index_offset: int,
            dtype: torch.dtype) -> Tensor:  # fmt: skip
        y = torch.empty_like(logits, dtype=dtype)
        self.run("shim_fwd", [logits, y], hard, key=key, index_offset=index_offset, tau=tau, tau_value=tau_value)
        return y

    def bwd(self, grad: Tensor, logits: Tensor, key: Tensor, tau: Tensor | None, tau_value: float, index_offset: int,
            tau_grad: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
        dlogits, sums = torch.empty_like(logits), new_block_sums(logits, tau_grad)
        self.run("shim_bwd", [grad, logits, dlogits], key=key, index_offset=index_offset, tau=tau, tau_value=tau_value,
                 block_sums=sums if tau_grad else None)  # fmt: skip
        return dlogits, sums

    def log_prob_fwd(self, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float) -> Tensor:
        log_prob = torch.empty_like(y, dtype=compute_dtype(y.dtype))
        self.run("shim_log_prob_fwd", [y, logits, log_prob], tau=tau, tau_value=tau_value)
        return log_prob

    def log_prob_bwd(self, grad: Tensor, y: Tensor, logits: Tensor, tau: Tensor | None, tau_value: float,
                     tau_grad: bool) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        dy, dlogits, sums = torch.empty_like(y), torch.empty_like(logits), new_block_sums(y, tau_grad)
        self.run("shim_log_prob_bwd", [grad, y, logits, dy, dlogits], outputs=2, tau=tau, tau_value=tau_value,
                 block_sums=sums if tau_grad else None)  # fmt: skip
        return dy, dlogits, sums

    def vector(self, x: Tensor, index_offset: int = 0) -> bool:
        call = ElementCall(x.numel(), index_offset)
        for i in range(2):
            call.data[i], call.storage[i] = x.data_ptr(), STORAGE[x.dtype]
        return bool(self.library.shim_vector(ctypes.byref(call)))


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("binary_concrete"))
    names = ("fwd", "bwd", "log_prob_fwd", "log_prob_bwd")
    with cuda_overloads({f"binary_concrete_{name}": getattr(shim, name) for name in names}):
        yield shim


@pytest.mark.parametrize("case", OPINFO.cases, ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@pytest.mark.parametrize("index_offset", [0, 3])
@pytest.mark.parametrize("count", [1, 4, 10, 4096, 4099])
def test_raw_ops_in_guard_bands(shim: Shim, monkeypatch: pytest.MonkeyPatch, count: int, index_offset: int) -> None:
    """Every dtype pair, against the reference in float64; nothing else is written."""
    key, generator = noise_key(3), torch.Generator().manual_seed(1)
    verify = guarded_empty_like(monkeypatch)
    for narrow, wide in PAIRS:
        compute = compute_dtype(narrow)
        tau = torch.tensor(0.75, dtype=compute)
        logits, grad, y = (torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(3))
        logits, grad, y = logits.to(narrow), grad.to(wide), torch.sigmoid(y).clamp(0.01, 0.98).to(wide)
        upcast = (grad.double(), logits.double(), key, None, 0.75, index_offset, True)
        expected = (
            reference.binary_concrete_fwd(logits.double(), key, None, 0.75, False, index_offset, torch.float64),
            *reference.binary_concrete_bwd(*upcast),
            reference.binary_concrete_log_prob_fwd(y.double(), logits.double(), None, 0.75),
            *reference.binary_concrete_log_prob_bwd(grad.double(), y.double(), logits.double(), None, 0.75, True),
        )
        actual = (
            shim.fwd(logits, key, tau, 0.0, False, index_offset, wide),
            *shim.bwd(grad, logits, key, tau, 0.0, index_offset, True),
            shim.log_prob_fwd(y, logits, tau, 0.0),
            *shim.log_prob_bwd(grad.to(compute), y, logits, tau, 0.0, True),
        )
        for ours, exact in zip(actual, expected):
            eps = 1e-12 if ours.dtype == torch.float64 else max(torch.finfo(ours.dtype).eps, 2e-5)
            torch.testing.assert_close(ours.double(), exact, rtol=eps, atol=eps * exact.abs().max().clamp(min=1))
    verify()


def test_whole_counters_at_aligned_addresses_take_16_byte_accesses(shim: Shim) -> None:
    x = torch.zeros(67)
    assert shim.vector(x) and shim.vector(x[4:]) and shim.vector(x, 8)
    assert not shim.vector(x[1:]) and not shim.vector(x, 3)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("tau", [1.0, 0.0, 1e-40, 3e38, -1.0, float("nan"), float("inf")])
def test_special_values(shim: Shim, hard: bool, tau: float) -> None:
    """NaN and infinities, for every kind of temperature, as the reference has them."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    logits[:4] = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0])
    results = []
    for backend in ("reference", "cuda"):
        x, t = logits.clone().requires_grad_(), torch.tensor(tau).requires_grad_()
        y = binary_concrete(x, t, hard, key=noise_key(0), backend=backend)
        results.append((y.detach(), *torch.autograd.grad(y[3:].sum() + y[:3].sum(), (x, t))))
    for ours, expected in zip(*reversed(results)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("tau", [1.0, 1e-40, 1e30, 0.0, -1.0, float("nan"), float("inf")])
def test_special_values_of_the_log_density(shim: Shim, tau: float) -> None:
    y = torch.tensor([0.0, 1.0, 0.3, torch.nan, 0.4, 0.6, 0.5])
    logits = torch.tensor([0.5, -0.5, torch.inf, 0.0, -torch.inf, torch.nan, 1.0])
    results = []
    for backend in ("reference", "cuda"):
        leaves = [x.clone().requires_grad_() for x in (y, logits, torch.tensor(tau))]
        result = binary_concrete_log_prob(*leaves, backend=backend)
        results.append((result.detach(), *torch.autograd.grad(result.sum(), leaves)))
    for ours, expected in zip(*reversed(results)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
