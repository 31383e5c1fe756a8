"""Keys, temperatures and schedules that change in place between forward and backward: backward has those of forward,
in eager mode, compiled, and under activation checkpointing, or the error says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dvae_kernels import gumbel_argmax, gumbel_softmax, nn
from kit.discovery import OPS
from kit.opinfo import Inputs, Op

# The part of inductor that makes cheap copies again in backward; inductor itself only adds code generation.
PARTITIONED = "aot_eager_decomp_partition"
MODES = {
    "eager": lambda function: function,
    "compiled": lambda function: torch.compile(function, fullgraph=True, backend=PARTITIONED),
}
DRAWING = [op for op in OPS if op.draws]
SHAPE = (6, 7)
draws = pytest.mark.parametrize("op", DRAWING, ids=str)
mode = pytest.mark.parametrize("mode", MODES)
inside = pytest.mark.parametrize("inside", [True, False], ids=["in the function", "after it"])


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(op: Op, function: Callable[[Inputs], Tensor]) -> list[Tensor]:
    leaves = {name: x.float().requires_grad_() for name, x in op.inputs(SHAPE).items()}
    y = function(leaves)
    return list(torch.autograd.grad((y * torch.arange(y.numel()).reshape(y.shape).sin()).sum(), list(leaves.values())))


def compare(ours: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b)


@draws
@inside
def test_a_key_that_advances_in_compiled_code(op: Op, inside: bool) -> None:
    key = torch.tensor([5, 0])

    def call(inputs: Inputs, key: Tensor) -> Tensor:
        y = op.call(inputs, "cpp", key=key)
        if inside:
            key[1].add_(1)
        return y

    compiled = MODES["compiled"](call)

    def training_step(inputs: Inputs) -> Tensor:
        y: Tensor = compiled(inputs, key)
        if not inside:
            key[1].add_(1)
        return y

    compare(
        gradients(op, training_step), gradients(op, lambda inputs: op.call(inputs, "cpp", key=torch.tensor([5, 0])))
    )
    assert key.tolist() == [5, 1]


@mode
@inside
@pytest.mark.parametrize("use", ["temperature", "weight"])
def test_a_schedule_that_steps(mode: str, inside: bool, use: str) -> None:
    schedule = nn.Schedule(1.0, 0.1, steps=4)
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

    def loss(x: Tensor) -> Tensor:
        value = schedule()
        y = gumbel_softmax(x, value, hard=True, seed=1)[:, 0] if use == "temperature" else x.sin() * value
        if inside:
            schedule.step()
        return y.sum()

    def gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
        x = logits.clone().requires_grad_()
        total = function(x)
        if not inside:
            schedule.step()
        return torch.autograd.grad(total, x)[0]

    step = MODES[mode](loss)
    gradient(step)
    second = gradient(step)
    assert schedule.position.item() == 2
    x = logits.clone().requires_grad_()
    value = torch.tensor(0.775)
    right = gumbel_softmax(x, value, hard=True, seed=1)[:, 0] if use == "temperature" else x.sin() * value
    torch.testing.assert_close(second, torch.autograd.grad(right.sum(), x)[0])


@pytest.mark.parametrize("op", [op for op in OPS if "tau" in op.inputs(SHAPE)], ids=str)
def test_a_temperature_that_changes_in_compiled_code(op: Op) -> None:
    """In eager mode autograd's version check raises."""
    values = op.inputs(SHAPE)
    tau = values["tau"].float().reshape(())

    def loss(inputs: Inputs, tau: Tensor) -> Tensor:
        y = op.call({**inputs, "tau": tau}, "cpp", **({"seed": 1} if op.draws else {}))
        total = (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum()
        tau.mul_(0.5)
        return total

    def gradient(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = {name: x.float().requires_grad_() for name, x in values.items() if name != "tau"}
        return list(torch.autograd.grad(function(leaves, tau.clone()), list(leaves.values())))

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(loss)
    compare(gradient(MODES["compiled"](loss)), gradient(lambda inputs, tau: loss_at(op, inputs, tau)))


def loss_at(op: Op, inputs: Inputs, tau: Tensor) -> Tensor:
    y = op.call({**inputs, "tau": tau}, "cpp", **({"seed": 1} if op.draws else {}))
    return (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum()


@draws
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("source", ["default generator", "key", "advanced key"])
def test_checkpointing(op: Op, reentrant: bool, source: str) -> None:
    def training_step(inputs: Inputs, checkpointed: bool) -> Tensor:
        torch.manual_seed(5)
        key = torch.tensor([3, 0])

        def block(*values: Tensor) -> Tensor:
            noise = {} if source == "default generator" else {"key": key}
            return op.call(dict(zip(inputs, values)), "cpp", **noise).sin()

        values = tuple(inputs.values())
        y = checkpoint(block, *values, use_reentrant=reentrant) if checkpointed else block(*values)
        if source == "advanced key":
            key[1] += 1
        return y

    def run(checkpointed: bool) -> list[Tensor]:
        leaves = {name: x.float().requires_grad_() for name, x in op.inputs(SHAPE).items()}
        y = training_step(leaves, checkpointed)
        (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
        return [x.grad for x in leaves.values() if x.grad is not None]

    if source == "advanced key":
        with pytest.raises(RuntimeError, match=r"^key was changed in place between a forward and its recomputation"):
            run(True)
    else:
        compare(run(True), run(False))


def recomputed(block: Callable[[Tensor], Tensor], change: Callable[[], Any], change_first: bool) -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    y = checkpoint(block, x, use_reentrant=False)
    if change_first:
        change()
    y.sum().backward()
    if not change_first:
        change()


@pytest.mark.parametrize("use", ["gumbel_argmax", "Schedule"])
def test_checkpointing_of_what_has_no_gradient(use: str) -> None:
    key, schedule = torch.tensor([1, 0]), nn.Schedule(1.0, 0.1, steps=4)

    def block(x: Tensor) -> Tensor:
        chosen = gumbel_argmax(x, key=key) if use == "gumbel_argmax" else schedule()
        return x.sin() * chosen.unsqueeze(-1)

    change = schedule.step if use == "Schedule" else lambda: key.add_(1)
    recomputed(block, change, False)
    recomputed(block, change, False)
    with pytest.raises(RuntimeError, match="was changed in place between a forward and its recomputation in backward"):
        recomputed(block, change, True)
