"""Derivatives: first and second order, transforms, checkpointing, and what may change between forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from conftest import Target
from dvae_kernels import gumbel_softmax

soft_and_hard = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])


def key_on(target: Target, seed: int = 11) -> Tensor:
    return torch.tensor([seed, 2], device=target.device)


def logits_on(target: Target, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.to(device=target.device, dtype=dtype).requires_grad_()


def tau_on(target: Target, value: float = 0.7, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=target.device, requires_grad=True)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("tau", ["tensor", 0.7])
def test_gradcheck_of_the_soft_sample(backend: Target, dim: int, tau: str | float) -> None:
    if backend.interpreted and (dim == 0 or tau != "tensor"):
        pytest.skip("too slow in the interpreter; one case runs")
    key = key_on(backend)
    inputs = [logits_on(backend, 3, 4)] + ([tau_on(backend)] if tau == "tensor" else [])

    def sample(logits: Tensor, tau: Tensor | float = 0.7) -> Tensor:
        return gumbel_softmax(logits, tau, dim=dim, key=key, backend=backend.backend)

    assert gradcheck(sample, inputs)
    assert gradgradcheck(sample, inputs)


@pytest.mark.parametrize("tau", ["tensor", 0.7])
def test_the_hard_gradient_is_the_soft_one(backend: Target, tau: str | float) -> None:
    results = []
    for hard in (False, True):
        logits = logits_on(backend, 5, 33)
        temperature = tau_on(backend) if tau == "tensor" else 0.7
        y = gumbel_softmax(logits, temperature, hard, key=key_on(backend), backend=backend.backend)
        g = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).sin().reshape(y.shape)
        leaves = [logits, temperature] if isinstance(temperature, Tensor) else [logits]
        results.append(torch.autograd.grad(y, leaves, g))
    for soft, hard_grad in zip(*results):
        torch.testing.assert_close(hard_grad, soft, rtol=1e-10, atol=1e-12)


def test_second_order_of_the_hard_sample(backend: Target) -> None:
    """The hard sample's gradient is a smooth function of the cotangent, the logits and tau: differentiate that."""
    key, target = key_on(backend), backend

    def gradient(cotangent: Tensor, logits: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
        y = gumbel_softmax(logits, tau, True, key=key, backend=target.backend)
        return torch.autograd.grad(y, (logits, tau), cotangent, create_graph=True)

    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(2, 4, generator=generator, dtype=torch.float64).to(target.device).requires_grad_()
    assert gradcheck(gradient, (cotangent, logits_on(target, 2, 4), tau_on(target)))


def test_second_order_with_masks_is_finite(backend: Target) -> None:
    mask = torch.tensor([[0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]], dtype=torch.bool, device=backend.device)
    for hard in (False, True):
        logits, tau = logits_on(backend, 3, 4), tau_on(backend)
        y = gumbel_softmax(
            logits.masked_fill(mask, -torch.inf), tau, hard, key=key_on(backend), backend=backend.backend
        )
        weight = torch.arange(12, dtype=y.dtype, device=y.device).reshape(3, 4).cos()
        first = torch.autograd.grad((y * weight).sum(), (logits, tau), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (logits, tau))
        for grad in (*first, *second):
            assert grad.isfinite().all()
        assert not first[0][mask].any() and not second[0][mask].any()
        assert second[0].any()


@soft_and_hard
@pytest.mark.parametrize("wanted", ["logits", "tau"])
def test_one_gradient_without_the_other(backend: Target, hard: bool, wanted: str) -> None:
    both = {"logits": logits_on(backend, 3, 17, dtype=torch.float32), "tau": tau_on(backend, dtype=torch.float32)}
    grads = []
    for needs in (("logits", "tau"), (wanted,)):
        leaves = {name: x.detach().requires_grad_(name in needs) for name, x in both.items()}
        y = gumbel_softmax(leaves["logits"], leaves["tau"], hard, key=key_on(backend), backend=backend.backend)
        y.square().cumsum(-1).sum().backward()
        grads.append(leaves[wanted].grad)
        assert all((leaves[name].grad is not None) == (name in needs) for name in leaves)
    torch.testing.assert_close(grads[0], grads[1])


@soft_and_hard
def test_no_graph_without_need(backend: Target, hard: bool) -> None:
    logits = logits_on(backend, 3, 5)
    options: dict[str, Any] = {"hard": hard, "key": key_on(backend), "backend": backend.backend}
    with torch.no_grad():
        y = gumbel_softmax(logits, **options)
    assert not y.requires_grad
    assert not gumbel_softmax(logits.detach(), **options).requires_grad
    assert torch.equal(y, gumbel_softmax(logits, **options))


@soft_and_hard
@pytest.mark.parametrize("tau", ["tensor", 0.7])
def test_the_key_may_change_between_forward_and_backward(backend: Target, hard: bool, tau: str | float) -> None:
    grads = []
    for advance in (0, 1):
        logits, key = logits_on(backend, 4, 9), key_on(backend)
        temperature = tau_on(backend) if tau == "tensor" else 0.7
        y = gumbel_softmax(logits, temperature, hard, key=key, backend=backend.backend)
        key += advance
        (y * torch.arange(9, device=y.device)).sum().backward()
        grads.append(logits.grad)
    assert torch.equal(*grads)


@soft_and_hard
def test_backward_twice(backend: Target, hard: bool) -> None:
    logits = logits_on(backend, 4, 9)
    y = gumbel_softmax(logits, hard=hard, key=key_on(backend), backend=backend.backend)
    loss = (y * torch.arange(9, device=y.device)).sum()
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@soft_and_hard
def test_checkpointing_with_a_key(backend: Target, hard: bool) -> None:
    key = key_on(backend)

    def loss(logits: Tensor, tau: Tensor) -> Tensor:
        y = gumbel_softmax(logits, tau, hard, key=key, backend=backend.backend)
        return (y * torch.arange(9, device=y.device)).square().sum()

    plain, saved = [], []
    for grads, run in ((plain, loss), (saved, lambda *args: checkpoint(loss, *args, use_reentrant=False))):
        leaves = logits_on(backend, 4, 9), tau_on(backend)
        grads += torch.autograd.grad(run(*leaves), leaves)
    assert all(map(torch.equal, plain, saved))


@soft_and_hard
def test_vmap(backend: Target, hard: bool) -> None:
    """Every sample of a vmap with one key sees the same noise, as a loop would."""
    batch = logits_on(backend, 3, 2, 7).detach()
    key, keys = key_on(backend), torch.stack([key_on(backend, seed) for seed in range(3)])

    def sample(logits: Tensor, key: Tensor = key) -> Tensor:
        return gumbel_softmax(logits, 0.5, hard, key=key, backend=backend.backend)

    def loss(logits: Tensor, key: Tensor = key) -> Tensor:
        y = sample(logits, key)
        return (y * torch.arange(7, device=y.device)).square().sum()

    close = torch.testing.assert_close
    close(torch.vmap(sample)(batch), torch.stack([sample(x) for x in batch]))
    close(torch.vmap(sample)(batch, keys), torch.stack([sample(x, k) for x, k in zip(batch, keys)]))
    close(torch.vmap(sample, in_dims=1)(batch), torch.stack([sample(x) for x in batch.unbind(1)]))
    gradient = torch.func.grad(loss)
    expected = torch.stack([gradient(x) for x in batch])
    assert expected.any()
    close(torch.vmap(gradient)(batch), expected)
    close(torch.func.grad(lambda x: torch.vmap(loss)(x).sum())(batch), expected)
    # against plain autograd, which shares nothing with torch.func
    leaf = batch[0].clone().requires_grad_()
    loss(leaf).backward()
    close(expected[0], leaf.grad)


@soft_and_hard
def test_forward_mode_raises(kernel: Target, hard: bool) -> None:
    logits, one = logits_on(kernel, 2, 3), torch.tensor(1.0, device=kernel.device)

    def sample(logits: Tensor, tau: Tensor) -> Tensor:
        return gumbel_softmax(logits, tau, hard, key=key_on(kernel), backend=kernel.backend)

    raises = pytest.raises((RuntimeError, NotImplementedError), match=r"jvp|forward")
    with forward_ad.dual_level():
        for x in (logits, logits.detach()):
            with raises:
                sample(forward_ad.make_dual(x, torch.ones_like(x)), one)
        with raises:
            sample(logits.detach(), forward_ad.make_dual(one, one))
    with raises:
        torch.func.linearize(lambda x: sample(x, one), logits.detach())


@soft_and_hard
def test_half_gradients_accumulate_like_float32_ones(backend: Target, hard: bool) -> None:
    """sum().backward() sends one expanded element; its gradient to a softmax is zero."""
    logits = logits_on(backend, 8, 40, dtype=torch.float16)
    gumbel_softmax(logits, 0.5, hard, key=key_on(backend), backend=backend.backend).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() <= 2 * torch.finfo(torch.float16).eps
