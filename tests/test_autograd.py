"""Derivatives: first and second order, transforms, checkpointing, and what may change between forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck
from torch.utils.checkpoint import checkpoint

from dvae_kernels import gumbel_softmax, vector_quantize
from kit.discovery import OPINFOS, OPS
from kit.opinfo import Inputs, Op
from kit.targets import Target

ops = pytest.mark.parametrize("op", OPS, ids=str)
soft_and_hard = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])


def key_on(target: Target, seed: int = 11) -> Tensor:
    return torch.tensor([seed, 2], device=target.device)


def logits_on(target: Target, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.to(device=target.device, dtype=dtype).requires_grad_()


def tau_on(target: Target, value: float = 0.7, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=target.device, requires_grad=True)


def leaves_of(op: Op, target: Target, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Inputs:
    return {name: x.to(target.device, dtype).requires_grad_() for name, x in op.inputs(shape).items()}


def call(op: Op, target: Target, inputs: Inputs, key: Tensor | None = None) -> Tensor:
    noise = {"key": key_on(target) if key is None else key} if op.draws else {}
    return op.call(inputs, target.backend, **noise)


def weights(y: Tensor) -> Tensor:
    return torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).sin().reshape(y.shape)


def loss(y: Tensor) -> Tensor:
    """One whose gradient depends on y, and differs between elements."""
    return (y * weights(y)).square().sum()


@ops
def test_first_and_second_derivatives(backend: Target, op: Op) -> None:
    """Numerically. Of a step function, the gradient is: a smooth function of the cotangent and of the inputs."""
    leaves = leaves_of(op, backend, (2, 4))

    def forward(*values: Tensor) -> Tensor:
        return call(op, backend, dict(zip(leaves, values)))

    def gradient(cotangent: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(*values), values, cotangent, create_graph=True)

    if not op.step and not op.held:
        assert gradcheck(forward, tuple(leaves.values()))
    if backend.interpreted:
        pytest.skip("second derivatives are plain torch on every backend, and slow to take through the interpreter")
    cotangent = weights(forward(*leaves.values())).detach().requires_grad_()
    if op.held:
        assert gradcheck(lambda cotangent: gradient(cotangent, *leaves.values()), (cotangent,))
    else:
        assert gradcheck(gradient, (cotangent, *leaves.values()))


@ops
def test_one_gradient_without_the_others(backend: Target, op: Op) -> None:
    both = leaves_of(op, backend, (3, 17), torch.float32)
    loss(call(op, backend, both)).backward()
    for wanted, whole in both.items():
        leaves = {name: x.detach().requires_grad_(name == wanted) for name, x in both.items()}
        loss(call(op, backend, leaves)).backward()
        assert all((x.grad is not None) == (name == wanted) for name, x in leaves.items())
        torch.testing.assert_close(leaves[wanted].grad, whole.grad)


@ops
def test_no_graph_without_need(backend: Target, op: Op) -> None:
    leaves = leaves_of(op, backend, (3, 5))
    with torch.no_grad():
        y = call(op, backend, leaves)
    assert not y.requires_grad
    assert not call(op, backend, {name: x.detach() for name, x in leaves.items()}).requires_grad
    assert torch.equal(y, call(op, backend, leaves))


@pytest.mark.parametrize("op", [op for op in OPS if op.draws], ids=str)
def test_the_key_may_change_between_forward_and_backward(backend: Target, op: Op) -> None:
    grads = []
    for advance in (0, 1):
        leaves, key = leaves_of(op, backend, (4, 9)), key_on(backend)
        y = call(op, backend, leaves, key)
        key += advance
        loss(y).backward()
        grads.append([x.grad for x in leaves.values()])
    assert all(map(torch.equal, *grads))


@ops
def test_backward_twice(backend: Target, op: Op) -> None:
    leaves = leaves_of(op, backend, (4, 9))
    value = loss(call(op, backend, leaves))
    first, second = (torch.autograd.grad(value, tuple(leaves.values()), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@ops
def test_checkpointing_with_a_key(backend: Target, op: Op) -> None:
    leaves = leaves_of(op, backend, (4, 9))

    def run(*values: Tensor) -> Tensor:
        return loss(call(op, backend, dict(zip(leaves, values))))

    values = tuple(leaves.values())
    plain = torch.autograd.grad(run(*values), values)
    saved = torch.autograd.grad(checkpoint(run, *values, use_reentrant=False), values)
    assert all(map(torch.equal, plain, saved))


@ops
def test_vmap(backend: Target, op: Op) -> None:
    """Every sample of a vmap with one key sees the same noise, as a loop would."""
    if backend.interpreted:
        pytest.skip("one rule for all kernels, a call for each sample: slow in the interpreter, and seen with cpp")
    samples = [{name: x * scale for name, x in op.inputs((2, 5)).items()} for scale in (1.0, 0.9, 0.7)]
    samples = [{name: x.to(backend.device) for name, x in sample.items()} for sample in samples]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def run(inputs: Inputs, key: Tensor | None = None) -> Tensor:
        return call(op, backend, inputs, key)

    def run_loss(inputs: Inputs) -> Tensor:
        return loss(run(inputs))

    close = torch.testing.assert_close
    close(torch.vmap(run)(batch), torch.stack([run(x) for x in samples]))
    last = {name: x.movedim(0, -1) for name, x in batch.items()}
    close(torch.vmap(run, in_dims=-1)(last), torch.stack([run(x) for x in samples]))
    if op.draws:
        keys = torch.stack([key_on(backend, seed) for seed in range(3)])
        close(torch.vmap(run)(batch, keys), torch.stack([run(x, k) for x, k in zip(samples, keys)]))
    gradient = torch.func.grad(run_loss)
    for name in batch:
        expected = torch.stack([gradient(x)[name] for x in samples])
        assert expected.any()
        close(torch.vmap(gradient)(batch)[name], expected)
        close(torch.func.grad(lambda x: torch.vmap(run_loss)(x).sum())(batch)[name], expected)
        # against plain autograd, which shares nothing with torch.func
        leaves = {n: x.clone().requires_grad_() for n, x in samples[1].items()}
        run_loss(leaves).backward()
        close(expected[1], leaves[name].grad)


@ops
def test_forward_mode(kernel: Target, op: Op) -> None:
    """The product with the Jacobian that backward multiplies from the other side; and second derivatives, forward over
    reverse."""
    if kernel.interpreted:
        pytest.skip("the same composition on every backend, and slow to take through the interpreter")
    leaves = {name: x.detach() for name, x in leaves_of(op, kernel, (2, 3)).items()}
    inputs, tangents = tuple(leaves.values()), tuple(weights(x) + 0.5 for x in leaves.values())

    def function(*values: Tensor) -> Tensor:
        return call(op, kernel, dict(zip(leaves, values)))

    y, vjp = torch.func.vjp(function, *inputs)
    _, tangent = torch.func.jvp(function, inputs, tangents)
    with forward_ad.dual_level():
        duals = (forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents))
        result = forward_ad.unpack_dual(function(*duals))
    torch.testing.assert_close(result.primal, y)
    torch.testing.assert_close(result.tangent, tangent)
    expected = sum((g * t).sum() for g, t in zip(vjp(weights(y)), tangents))
    torch.testing.assert_close((tangent * weights(y)).sum(), expected)
    assert tangent.any()

    def total(*values: Tensor) -> Tensor:
        return loss(function(*values))

    first = torch.func.jacrev(total)
    torch.testing.assert_close(torch.func.jacfwd(first)(*inputs), torch.func.jacrev(first)(*inputs))
    # some inputs alone have tangents
    for i, x in enumerate(inputs):
        alone = torch.func.jvp(lambda x, i=i: function(*inputs[:i], x, *inputs[i + 1 :]), (x,), (tangents[i],))[1]
        torch.testing.assert_close((alone * weights(y)).sum(), (vjp(weights(y))[i] * tangents[i]).sum())


@pytest.mark.parametrize("op", [info.ops[-1] for info in OPINFOS if info.ops], ids=str)
def test_forward_mode_is_not_compiled(op: Op) -> None:
    target = Target("cpp", "cpu")
    leaves = {name: x.detach() for name, x in leaves_of(op, target, (2, 3)).items()}
    inputs = tuple(leaves.values())

    def product(*values: Tensor) -> Tensor:
        return torch.func.jvp(lambda *x: call(op, target, dict(zip(leaves, x))), values, values)[1]

    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="forward mode is not compiled"):
        torch.compile(product, backend="eager", fullgraph=True)(*inputs)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(product, backend="eager")(*inputs), product(*inputs))  # a graph break


# What gumbel_softmax alone promises


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
def test_half_gradients_accumulate_like_float32_ones(backend: Target, hard: bool) -> None:
    """sum().backward() sends one expanded element; its gradient to a softmax is zero."""
    logits = logits_on(backend, 8, 40, dtype=torch.float16)
    gumbel_softmax(logits, 0.5, hard, key=key_on(backend), backend=backend.backend).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() <= 2 * torch.finfo(torch.float16).eps


@ops
def test_vmap_over_an_empty_batch(backend: Target, op: Op) -> None:
    leaves = {name: x.detach() for name, x in leaves_of(op, backend, (3, 5), torch.float32).items()}
    right = call(op, backend, leaves)
    first = next(iter(leaves))

    def mapped(x: Tensor) -> Tensor:
        return call(op, backend, {**leaves, first: x})

    assert torch.func.vmap(mapped)(leaves[first].new_empty((0, *leaves[first].shape))).shape == (0, *right.shape)


@pytest.mark.parametrize("name", ["vector_quantize", "gumbel_softmax"])
def test_a_result_that_is_changed_in_place(name: str) -> None:
    """Backward keeps it: the message says what to do. A copy may be changed."""
    x = torch.randn(6, 8, requires_grad=True)

    def result() -> Tensor:
        return gumbel_softmax(x) if name == "gumbel_softmax" else vector_quantize(x, torch.randn(9, 8)).quantized

    changed = torch.nn.functional.relu(result(), inplace=True)
    with pytest.raises(RuntimeError, match=rf"^{name}: .*, which backward needs, was changed in place before it; give"):
        changed.sum().backward()
    torch.nn.functional.relu(result().clone(), inplace=True).sum().backward()
    y = result().sum()
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()
