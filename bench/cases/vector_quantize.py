"""vector_quantize against the quantizer of a VQ-VAE in plain torch: with the codes' indices given, which leaves what
moves the rows, and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import timing
from conftest import REPLAY, backends_with_raw_ops, our_backends
from dvae_kernels import vector_quantize
from peers import by_rows

Step = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> (quantized, loss)
WIDTH = 64
GRADIENTS = ("straight_through", "rotation")
GIVEN = [(n, gradient) for n in (1 << 14, 1 << 17) for gradient in GRADIENTS]
WHOLE = [(1 << 14, k) for k in (1024, 8192)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = GIVEN if "gradient" in metafunc.fixturenames else WHOLE
    names = "n, gradient" if "gradient" in metafunc.fixturenames else "n, k"
    metafunc.parametrize(names, cases[:1] if metafunc.config.getoption("--quick") else cases, ids=str)


def plain(x: Tensor, codebook: Tensor, indices: Tensor, gradient: str) -> tuple[Tensor, Tensor]:
    c = F.embedding(indices, codebook)
    loss = 0.25 * F.mse_loss(x, c.detach())
    if gradient == "straight_through":
        return x + (c - x).detach(), loss
    with torch.no_grad():
        x_norm, c_norm = x.norm(dim=-1, keepdim=True), c.norm(dim=-1, keepdim=True)
        x_unit, c_unit, stretch = x / x_norm, c / c_norm, c_norm / x_norm
        w = F.normalize(x_unit + c_unit, dim=-1)
    turned = x - 2 * (x * w).sum(-1, keepdim=True) * w + 2 * (x * x_unit).sum(-1, keepdim=True) * c_unit
    return stretch * turned, loss


class Given(torch.autograd.Function):
    """The raw ops of vector_quantize on given indices: (quantized, the commitment loss of each row)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codebook: Tensor, indices: Tensor, rotation: bool, backend: str) -> Any:
        fwd = getattr(torch.ops.dvae_kernels.vector_quantize_fwd, backend)
        quantized, _, errors = fwd(x, codebook, indices, False)
        ctx.save_for_backward(x, quantized, indices)
        ctx.rotation, ctx.backend = rotation, backend
        return quantized, errors

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_errors: Tensor) -> Any:
        x, codes, indices = ctx.saved_tensors
        bwd = getattr(torch.ops.dvae_kernels.vector_quantize_bwd, ctx.backend)
        dx, _ = bwd(grad, grad_errors, x, codes, indices, 1.0, 0.0, ctx.rotation, False)
        return dx, None, None, None, None


def steps(samplers: dict[str, Step], x: Tensor) -> dict[str, timing.Function]:
    """Forward and backward of each, with a gradient to the quantized rows as a decoder sends one."""
    leaf, grad, one = x.clone().requires_grad_(), torch.randn_like(x), torch.ones((), device=x.device)

    def step(sampler: Step) -> timing.Function:
        return lambda: torch.autograd.grad(sampler(leaf), leaf, (grad, one))

    return {label: step(sampler) for label, sampler in samplers.items()}


@pytest.mark.benchmark(timer=REPLAY)
def test_rows_with_given_codes(
    n: int, gradient: str, device: torch.device, quick: bool, compare: Callable[..., None]
) -> None:
    """The raw ops, without the search and without the checks of the public function."""
    torch.manual_seed(0)
    n = 70 if quick else n
    x, codebook = torch.randn(n, WIDTH, device=device), torch.randn(8192, WIDTH, device=device)
    indices = torch.randint(8192, (n,), device=device)

    def given(backend: str) -> Step:
        def sampler(x: Tensor) -> tuple[Tensor, Tensor]:
            quantized, errors = Given.apply(x, codebook, indices, gradient == "rotation", backend)
            return quantized, 0.25 * errors.sum() / x.numel()

        return sampler

    def peer(x: Tensor) -> tuple[Tensor, Tensor]:
        return plain(x, codebook, indices, gradient)

    samplers: dict[str, Step] = {f"ours ({name})": given(name) for name in backends_with_raw_ops(device)}
    samplers |= {"plain torch": peer} | ({} if quick else {"compiled": torch.compile(peer, dynamic=False)})
    kept = timing.reserve(x) if device.type == "cpu" and n <= 1 << 14 else None
    compare(
        f"vector_quantize {gradient}, indices given, forward+backward {n}x{WIDTH}",
        "" if kept is None else "reused memory", steps(samplers, x),
    )  # fmt: skip
    del kept


@pytest.mark.benchmark(timer=REPLAY)
def test_vector_quantize(n: int, k: int, device: torch.device, quick: bool, compare: Callable[..., None]) -> None:
    torch.manual_seed(0)
    n, k = (70, 33) if quick else (n, k)
    x, codebook = torch.randn(n, WIDTH, device=device), torch.randn(k, WIDTH, device=device)
    search = by_rows(x, codebook)

    def peer(x: Tensor) -> tuple[Tensor, Tensor]:
        return plain(x, codebook, torch.cdist(x.detach(), codebook).argmin(1), "straight_through")

    samplers: dict[str, Step] = {
        f"ours ({name})": ours(codebook, "straight_through", name) for name in our_backends(device)
    }
    samplers |= {"cdist, argmin": peer} | ({} if quick else {"compiled": torch.compile(peer, dynamic=False)})
    samplers["addmm, argmax by rows"] = lambda x: plain(x, codebook, search(), "straight_through")
    compare(f"vector_quantize forward+backward {n}x{k}x{WIDTH}", "", steps(samplers, x))


def ours(codebook: Tensor, gradient: str, backend: str) -> Step:
    def sampler(x: Tensor) -> tuple[Tensor, Tensor]:
        quantized, _, loss = vector_quantize(x, codebook, gradient=gradient, backend=backend)
        return quantized, loss

    return sampler
