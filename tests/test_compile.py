"""torch.compile: whole graphs, dynamic shapes, fresh noise; and opcheck on the raw ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from dvae_kernels import gumbel_softmax
from kit.discovery import OPINFOS, OPS
from kit.opinfo import Inputs, Op, OpInfo
from kit.targets import Target

ops = pytest.mark.parametrize("op", OPS, ids=str)
# What inductor does to a graph before it generates code, partitioner and CSE included: seconds less a test.
QUICK = "aot_eager_decomp_partition"


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def logits_on(target: Target, *shape: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.to(target.device).requires_grad_()


def skip_what_another_backend_shows(target: Target) -> None:
    """Graphs hold an op as a name: which kernels run behind it changes nothing in them."""
    if target.interpreted:
        pytest.skip("the same graph as with cpp, and slow to run in the interpreter")


def run(function: Callable[[Inputs], Tensor], op: Op, target: Target, shape: tuple[int, ...]) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    leaves = {name: x.to(target.device, torch.float32).requires_grad_() for name, x in op.inputs(shape).items()}
    y = function(leaves)
    weight = torch.arange(y.numel(), device=y.device).reshape(y.shape).sin()
    return [y, *torch.autograd.grad((y * weight).sum(), tuple(leaves.values()))]


def compare(
    compiled: Callable[[Inputs], Tensor], eager: Callable[[Inputs], Tensor], op: Op, target: Target,
    *shapes: tuple[int, ...],
) -> None:  # fmt: skip
    for shape in shapes:
        for ours, theirs in zip(run(compiled, op, target, shape), run(eager, op, target, shape)):
            torch.testing.assert_close(ours, theirs)
            assert ours.stride() == theirs.stride() or target.backend == "reference"


def caller(op: Op, target: Target, source: str = "seed") -> Callable[[Inputs], Tensor]:
    """The op between other work on its first input, with fixed noise."""
    noise = {"seed": 3} if source == "seed" else {"key": torch.tensor([3, 0], device=target.device)}

    def call(inputs: Inputs) -> Tensor:
        first = next(iter(inputs))
        return op.call({**inputs, first: inputs[first] * 0.5}, target.backend, **(noise if op.draws else {})).sin()

    return call


@ops
def test_compiled_equals_eager(kernel: Target, op: Op) -> None:
    skip_what_another_backend_shows(kernel)
    call = caller(op, kernel, "key")
    compare(torch.compile(call, fullgraph=True, backend=QUICK), call, op, kernel, (4, 9), (4, 9, 3))


@ops
def test_the_reference_compiles(op: Op) -> None:
    target = Target("reference", "cpu")
    call = caller(op, target)
    compare(torch.compile(call, fullgraph=True, backend="aot_eager"), call, op, target, (4, 9))


@ops
def test_other_shapes_do_not_recompile(kernel: Target, op: Op) -> None:
    skip_what_another_backend_shows(kernel)
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    call = caller(op, kernel)
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=count)
    compare(compiled, call, op, kernel, (4, 9))
    first = graphs
    compare(compiled, call, op, kernel, (5, 33), (17, 6))
    assert first and graphs == first, "another shape compiled again"


@pytest.mark.parametrize("backend", [QUICK, "inductor"])
def test_options_may_change_from_call_to_call(kernel: Target, backend: str) -> None:
    """`seed=step` is the obvious use: no crash, and not a graph for every seed."""
    skip_what_another_backend_shows(kernel)
    logits = logits_on(kernel, 4, 9).detach()

    def sample(seed: int, tau: float, row_offset: int) -> Tensor:
        return gumbel_softmax(logits, tau, seed=seed, row_offset=row_offset, backend=kernel.backend)

    compiled = torch.compile(sample, fullgraph=True, backend=backend)
    for options in ((1, 0.5, 0), (2, 0.6, 3), (-7, 0.7, 4), ((1 << 63) - 1, 0.8, 2**32 - 4), (5, 1e300, 1)):
        torch.testing.assert_close(compiled(*options), sample(*options))


@pytest.mark.parametrize("op", [op for op in OPS if op.draws], ids=str)
def test_two_calls_in_one_training_graph_draw_different_noise(kernel: Target, op: Op) -> None:
    skip_what_another_backend_shows(kernel)

    @torch.compile(fullgraph=True, backend=QUICK)
    def two(inputs: Inputs) -> tuple[Tensor, Tensor]:
        return op.call(inputs, kernel.backend), op.call(inputs, kernel.backend)

    leaves = {name: x.to(kernel.device, torch.float32).requires_grad_() for name, x in op.inputs((16, 33)).items()}
    first, second = two(leaves)
    assert not torch.equal(first, second)
    again, _ = two(leaves)
    assert not torch.equal(first, again), "every call draws anew"
    # and backward sees the noise of its own forward
    weight = torch.arange(first.numel(), device=kernel.device).reshape(first.shape).cos()
    ours, other = (
        torch.autograd.grad((y * weight).sum(), tuple(leaves.values()), retain_graph=True)[0] for y in (first, second)
    )
    assert torch.allclose(ours, other) != op.noise_grad


def test_the_backward_of_a_compiled_sample_is_its_own(kernel: Target) -> None:
    skip_what_another_backend_shows(kernel)

    @torch.compile(fullgraph=True, backend=QUICK)
    def sample(logits: Tensor) -> Tensor:
        return gumbel_softmax(logits, backend=kernel.backend)

    logits = logits_on(kernel, 16, 33)
    y = sample(logits)
    weight = torch.arange(33, device=kernel.device).float().cos()
    (dlogits,) = torch.autograd.grad((y * weight).sum(), logits)
    torch.testing.assert_close(dlogits, y * (weight - (y * weight).sum(-1, keepdim=True)))


@pytest.mark.slow
@pytest.mark.parametrize("info", [info for info in OPINFOS if info.ops], ids=str)
def test_inductor(kernel: Target, info: OpInfo) -> None:
    """The real compiler, once an op: forward, backward and fresh noise."""
    skip_what_another_backend_shows(kernel)
    op = info.ops[-1]
    call = caller(op, kernel)
    compare(torch.compile(call, fullgraph=True), call, op, kernel, (6, 20))
    if not op.draws:
        return

    @torch.compile(fullgraph=True)
    def two(inputs: Inputs) -> Tensor:
        return torch.stack([op.call(inputs, kernel.backend) for _ in range(2)])

    first, second = two({name: x.to(kernel.device, torch.float32) for name, x in op.inputs((6, 20)).items()})
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("layout", "dtype"), [("contiguous", torch.float16), ("transposed", torch.float32)], ids=str)
@pytest.mark.parametrize("info", OPINFOS, ids=str)
def test_opcheck(kernel: Target, info: OpInfo, dtype: torch.dtype, layout: str) -> None:
    """Schemas, fakes (strides included) and dispatch of the raw ops, whose gradients are the Function's."""
    logits = logits_on(kernel, 3, 6, 5).detach().to(dtype)
    if layout == "transposed":
        logits = logits.transpose(0, 2)
    for name, args in info.raw_calls(logits, torch.tensor([1, 2], device=kernel.device)):
        overload = getattr(getattr(torch.ops.dvae_kernels, name), kernel.backend)
        # the other checks are of schema and fake alone, which all backends share
        checks = {"test_utils": ("test_schema", "test_faketensor")} if kernel.interpreted else {}
        torch.library.opcheck(overload, args, **checks)
