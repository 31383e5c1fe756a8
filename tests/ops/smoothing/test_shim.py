"""The CUDA kernels of the smoothing transformations, compiled by g++ through the host shim."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels._dtypes import compute_dtype
from dvae_kernels._elements import new_parameter_gradient
from dvae_kernels.ops.smoothing import SMOOTHING_KINDS, reference, smoothing_log_prob, smoothing_transform
from kit.compare import largest
from kit.dtypes import PAIRS, STORAGE
from kit.opinfo import Case
from kit.oracle import assert_keeps_the_contract, noise_key
from kit.shim import ElementCall, ElementShim, address, compile_shim, cuda_overloads, guarded_empty_like
from ops.smoothing.cases import OPINFO


class Shim(ElementShim):
    def call(
        self,
        function: str,
        kind: str,
        tensors: list[Tensor],
        *extra: Tensor | bool | None,
        outputs: int = 1,
        written: tuple[Tensor | None, ...] = (),
        key: Tensor | None = None,
        index_offset: int = 0,
        beta: Tensor | None = None,
        beta_value: float = 0.0,
    ) -> None:
        """On contiguous memory, as the extension's host code; `written`: further outputs, which may be none."""
        beta = None if beta is None else beta.contiguous()
        inputs = [x.contiguous() if isinstance(x, Tensor) else x for x in extra]
        results = [None if x is None else x.contiguous() for x in written]
        self.run(
            function, tensors, kind.encode(), *(address(x) if not isinstance(x, bool) else x for x in inputs),
            *map(address, results), outputs=outputs, key=key, index_offset=index_offset, tau=beta,
            tau_value=beta_value,
        )  # fmt: skip
        for target, result in zip(written, results):
            if target is not None and result is not target:
                assert result is not None
                target.copy_(result)

    def smoothing_fwd(self, logits: Tensor, noise: Tensor | None, key: Tensor | None, beta: Tensor | None,
                      beta_value: float, kind: str, index_offset: int, dtype: torch.dtype) -> Tensor:  # fmt: skip
        zeta = torch.empty_like(logits, dtype=dtype)
        self.call("shim_fwd", kind, [logits, zeta], noise, _each(beta), key=key, index_offset=index_offset, beta=beta,
                  beta_value=beta_value)  # fmt: skip
        return zeta

    def smoothing_bwd(self, grad: Tensor, logits: Tensor, noise: Tensor | None, key: Tensor | None,
                      beta: Tensor | None, beta_value: float, kind: str, index_offset: int, beta_grad: bool,
                      noise_grad: bool) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        dlogits, dbeta = torch.empty_like(logits), new_parameter_gradient(logits, beta, beta_grad)
        compute = compute_dtype(logits.dtype)
        dnoise = torch.empty_like(logits, dtype=compute) if noise_grad else logits.new_empty((0,), dtype=compute)
        written = dbeta if beta_grad else None, dnoise if noise_grad else None
        self.call("shim_bwd", kind, [grad, logits, dlogits], noise, _each(beta), written=written, key=key,
                  index_offset=index_offset, beta=beta, beta_value=beta_value)  # fmt: skip
        return dlogits, dbeta, dnoise

    def smoothing_log_prob_fwd(self, zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float,
                               kind: str) -> Tensor:  # fmt: skip
        log_prob = torch.empty_like(zeta, dtype=compute_dtype(zeta.dtype))
        self.call("shim_log_prob_fwd", kind, [zeta, logits, log_prob], _each(beta), beta=beta, beta_value=beta_value)
        return log_prob

    def smoothing_log_prob_bwd(
        self, grad: Tensor, zeta: Tensor, logits: Tensor, beta: Tensor | None, beta_value: float, kind: str,
        beta_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        dzeta, dlogits, dbeta = (
            torch.empty_like(zeta),
            torch.empty_like(logits),
            new_parameter_gradient(logits, beta, beta_grad),
        )
        self.call("shim_log_prob_bwd", kind, [grad, zeta, logits, dzeta, dlogits], _each(beta), outputs=2,
                  written=(dbeta if beta_grad else None,), beta=beta, beta_value=beta_value)  # fmt: skip
        return dzeta, dlogits, dbeta

    def vector(self, x: Tensor, noise: Tensor | None = None, index_offset: int = 0) -> bool:
        call = ElementCall(x.numel(), index_offset)
        for i in range(2):
            call.data[i], call.storage[i] = x.data_ptr(), STORAGE[x.dtype]
        return bool(self.library.shim_vector(ctypes.byref(call), address(noise)))


def _each(beta: Tensor | None) -> bool:
    return beta is not None and beta.dim() > 0


@pytest.fixture(scope="module")
def shim() -> Iterator[Shim]:
    shim = Shim(compile_shim("smoothing"))
    names = ("smoothing_fwd", "smoothing_bwd", "smoothing_log_prob_fwd", "smoothing_log_prob_bwd")
    with cuda_overloads({name: getattr(shim, name) for name in names}):
        yield shim


@pytest.fixture(scope="module")
def inexact() -> Shim:
    return Shim(compile_shim("smoothing", device_errors=True))


@pytest.mark.parametrize("case", OPINFO.cases, ids=str)
def test_contract(case: Case, shim: Shim) -> None:
    assert_keeps_the_contract(case, "cuda", "cpu")


@pytest.mark.parametrize("each", [False, True], ids=["one beta", "a beta each"])
@pytest.mark.parametrize("given", [False, True], ids=["key", "noise"])
@pytest.mark.parametrize("count, index_offset", [(1, 0), (10, 3), (4096, 0), (4099, 0), (2049, 3)])
def test_raw_ops_in_guard_bands(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, count: int, index_offset: int, given: bool, each: bool
) -> None:
    """Every dtype pair, against the reference in float64; nothing else is written."""
    kind, generator = "power", torch.Generator().manual_seed(1)
    verify = guarded_empty_like(monkeypatch)
    for narrow, wide in PAIRS:
        compute = compute_dtype(narrow)
        logits, grad = (torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(2))
        noise, zeta = (0.05 + 0.9 * torch.rand(count, generator=generator) for _ in range(2))
        beta = 1.5 + torch.rand((count,) if each else (), generator=generator)
        logits, grad, noise, zeta, beta = (
            x.to(dtype) for x, dtype in zip((logits, grad, noise, zeta, beta), (narrow, wide, compute, wide, compute))
        )
        key = None if given else noise_key(3)
        results = []
        for ops, exact in ((shim, False), (reference, True)):
            x, g, e, z, b = (t.double() if exact else t for t in (logits, grad, noise, zeta, beta))
            d = g if exact else g.to(compute)
            from_noise = e if given else None
            results.append([
                ops.smoothing_fwd(x, from_noise, key, b, 0.0, kind, index_offset, z.dtype),
                *ops.smoothing_bwd(g, x, from_noise, key, b, 0.0, kind, index_offset, True, given),
                ops.smoothing_log_prob_fwd(z, x, b, 0.0, kind),
                *ops.smoothing_log_prob_bwd(d, z, x, b, 0.0, kind, True),
            ])  # fmt: skip
        for ours, expected in zip(*results):
            eps = 1e-12 if ours.dtype == torch.float64 else max(torch.finfo(ours.dtype).eps, 2e-5)
            torch.testing.assert_close(ours.double(), expected, rtol=eps, atol=eps * max(1.0, largest(expected)))
    verify()


def test_whole_counters_at_aligned_addresses_take_16_byte_accesses(shim: Shim) -> None:
    x = torch.zeros(67)
    assert shim.vector(x) and shim.vector(x[4:]) and shim.vector(x, x[4:]) and shim.vector(x, None, 8)
    assert not shim.vector(x[1:]) and not shim.vector(x, None, 3) and not shim.vector(x, x[1:])


def _ends() -> tuple[Tensor, Tensor]:
    """Logits with p within 1e-7 of 0 and 1, each with noise at both ends, in between, and around the threshold."""
    size = torch.tensor([1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 16.2])
    logits = torch.cat([-size, torch.zeros(1), size])[:, None]
    end = torch.tensor([0.0, 2.0**-33, 1e-6, 1e-3])
    noise = torch.cat([end, torch.linspace(0.01, 0.99, 23), 1 - end]).expand(len(logits), -1)
    steps = torch.tensor([-1e-3, -1e-6, -1e-7, 0.0, 1e-7, 1e-6, 1e-3])
    noise = torch.cat([noise, (torch.sigmoid(-logits) * (1 + steps)).clamp(0, 1)], 1)
    return logits.expand_as(noise).flatten(), noise.flatten()


@pytest.mark.parametrize("beta", [0.05, 0.3, 0.45, 1.0, 8.0, 1000.0])
@pytest.mark.parametrize("kind", SMOOTHING_KINDS)
def test_the_ends_of_everything(inexact: Shim, kind: str, beta: float) -> None:
    """Finite, and near to the float64 reference where approximate instructions are as inexact as the device's may be;
    thresholds magnify that, so twice the contract's budget is allowed."""
    logits, noise = _ends()
    zeta = reference.smoothing_fwd(logits, noise, None, None, beta, kind, 0, torch.float32)

    def results(ops: Any, dtype: torch.dtype) -> list[Tensor]:
        x, e, z = logits.to(dtype), noise.to(dtype), zeta.to(dtype)
        b, ones = torch.full_like(x, float(torch.tensor(beta))), torch.ones_like(x)
        return [
            ops.smoothing_fwd(x, e, None, b, 0.0, kind, 0, dtype),
            *ops.smoothing_bwd(ones, x, e, None, b, 0.0, kind, 0, True, SMOOTHING_KINDS[kind].noise_grad),
            ops.smoothing_log_prob_fwd(z, x, b, 0.0, kind),
            *ops.smoothing_log_prob_bwd(ones, z, x, b, 0.0, kind, True),
        ]

    exact, own = results(reference, torch.float64), results(reference, torch.float32)
    names = ("zeta", "dlogits", "dbeta", "dnoise", "log density", "dzeta", "its dlogits", "its dbeta")
    for name, x, r, y in zip(names, exact, own, results(inexact, torch.float32)):
        assert y.isfinite().all(), name
        error, budget = (largest(z.double() - x) for z in (y, r))
        assert error <= 4 * (budget + torch.finfo(torch.float32).eps * max(largest(x), 1)), f"{name}: {error}"


@pytest.mark.parametrize("kind", SMOOTHING_KINDS)
@pytest.mark.parametrize("beta", [1.5, 0.0, 1e-40, 3e38, -1.0, float("nan"), float("inf")])
def test_special_values(shim: Shim, kind: str, beta: float) -> None:
    """NaN and infinities, for every kind of sharpness, as the reference has them."""
    logits, noise = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    logits[:8] = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0]).repeat(2)
    noise = noise.sigmoid()
    noise[4:12] = torch.tensor([0.0, 1.0, 0.5, torch.nan, -0.1, 1.1, 0.0, 1.0])
    results = []
    for backend in ("reference", "cuda"):
        x, e, b = (
            logits.clone().requires_grad_(),
            noise.clone().requires_grad_(SMOOTHING_KINDS[kind].noise_grad),
            torch.tensor(beta),
        )
        b = b.expand(40).clone().requires_grad_()
        y = smoothing_transform(x, b, kind, noise=e, backend=backend)
        leaves = (x, b, e) if SMOOTHING_KINDS[kind].noise_grad else (x, b)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), leaves)))
    for ours, expected in zip(*reversed(results)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", SMOOTHING_KINDS)
@pytest.mark.parametrize("beta", [1.5, 0.0, -1.0, float("nan"), float("inf")])
def test_special_values_of_the_log_density(shim: Shim, kind: str, beta: float) -> None:
    zeta = torch.tensor([0.0, 1.0, 0.3, torch.nan, 0.4, 0.6, 0.5, -0.1, 1.1, torch.inf, -torch.inf, 0.0])
    logits = torch.tensor([0.5, -0.5, torch.inf, 0.0, -torch.inf, torch.nan, 1.0, 1.0, 1.0, 1.0, 1.0, -2.0])
    results = []
    for backend in ("reference", "cuda"):
        z, x, b = leaves = [t.clone().requires_grad_() for t in (zeta, logits, torch.tensor(beta))]
        result = smoothing_log_prob(z, x, b, kind, backend=backend)
        results.append((result.detach(), *torch.autograd.grad(result.sum(), leaves)))
    for ours, expected in zip(*reversed(results)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
