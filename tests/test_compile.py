"""torch.compile: whole graphs, dynamic shapes, fresh noise; and opcheck on the raw ops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from conftest import Target
from dvae_kernels import gumbel_softmax

soft_and_hard = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
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


def compare(compiled: object, eager: object, target: Target, *shapes: tuple[int, ...], tau: bool = True) -> None:
    for shape in shapes:
        results = []
        for function in (compiled, eager):
            leaves = [logits_on(target, *shape)]
            if tau:
                leaves.append(torch.tensor(0.7, device=target.device, requires_grad=True))
            y = function(*leaves)  # type: ignore[operator]
            weight = torch.arange(y.numel(), device=y.device).reshape(y.shape).sin()
            results.append((y, *torch.autograd.grad((y * weight).sum(), leaves)))
        for ours, theirs in zip(*results):
            torch.testing.assert_close(ours, theirs)
            assert ours.stride() == theirs.stride() or target.backend == "reference"


@soft_and_hard
@pytest.mark.parametrize("source", ["key", "seed"])
def test_compiled_equals_eager(kernel: Target, hard: bool, source: str) -> None:
    noise = {"seed": 3} if source == "seed" else {"key": torch.tensor([3, 0], device=kernel.device)}

    def sample(logits: Tensor, tau: Tensor) -> Tensor:
        return gumbel_softmax(logits * 2, tau, hard, dim=1, backend=kernel.backend, **noise)  # type: ignore[arg-type]

    compare(torch.compile(sample, fullgraph=True, backend=QUICK), sample, kernel, (4, 9), (4, 9, 3))


def test_the_reference_compiles() -> None:
    def sample(logits: Tensor, tau: Tensor) -> Tensor:
        return gumbel_softmax(logits, tau, True, seed=3, backend="reference")

    compare(torch.compile(sample, fullgraph=True, backend="aot_eager"), sample, Target("reference", "cpu"), (4, 9))


@soft_and_hard
def test_other_shapes_do_not_recompile(kernel: Target, hard: bool) -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def sample(logits: Tensor, tau: Tensor) -> Tensor:
        return gumbel_softmax(logits, tau, hard, seed=4, backend=kernel.backend)

    compiled = torch.compile(sample, fullgraph=True, dynamic=True, backend=count)
    compare(compiled, sample, kernel, (4, 9))
    first = graphs
    compare(compiled, sample, kernel, (5, 33), (17, 6))
    assert first and graphs == first, "another shape compiled again"


@pytest.mark.parametrize("backend", [QUICK, "inductor"])
def test_options_may_change_from_call_to_call(kernel: Target, backend: str) -> None:
    """`seed=step` is the obvious use: no crash, and not a graph for every seed."""
    logits = logits_on(kernel, 4, 9).detach()

    def sample(seed: int, tau: float, row_offset: int) -> Tensor:
        return gumbel_softmax(logits, tau, seed=seed, row_offset=row_offset, backend=kernel.backend)

    compiled = torch.compile(sample, fullgraph=True, backend=backend)
    for options in ((1, 0.5, 0), (2, 0.6, 3), (-7, 0.7, 4), ((1 << 63) - 1, 0.8, 2**32 - 4), (5, 1e300, 1)):
        torch.testing.assert_close(compiled(*options), sample(*options))


def test_a_float_tau_compiles(kernel: Target) -> None:
    def sample(logits: Tensor) -> Tensor:
        return gumbel_softmax(logits, 0.5, seed=4, backend=kernel.backend)

    compare(torch.compile(sample, fullgraph=True, backend=QUICK), sample, kernel, (4, 9), tau=False)


@soft_and_hard
def test_two_calls_in_one_training_graph_draw_different_noise(kernel: Target, hard: bool) -> None:
    @torch.compile(fullgraph=True, backend=QUICK)
    def two(logits: Tensor) -> tuple[Tensor, Tensor]:
        return (
            gumbel_softmax(logits, hard=hard, backend=kernel.backend),
            gumbel_softmax(logits, hard=hard, backend=kernel.backend),
        )

    logits = logits_on(kernel, 16, 33)
    first, second = two(logits)
    assert not torch.equal(first, second)
    again, _ = two(logits)
    assert not torch.equal(first, again), "every call draws anew"
    # and backward sees the noise of its own forward
    weight = torch.arange(33, device=kernel.device).float().cos()
    ours = torch.autograd.grad((first * weight).sum(), logits, retain_graph=True)[0]
    other = torch.autograd.grad((second * weight).sum(), logits)[0]
    assert not torch.allclose(ours, other)
    if not hard:
        torch.testing.assert_close(ours, first * (weight - (first * weight).sum(-1, keepdim=True)))


@pytest.mark.slow
def test_inductor(kernel: Target) -> None:
    """The real compiler, once: forward, backward and fresh noise."""

    def sample(logits: Tensor, tau: Tensor) -> Tensor:
        return gumbel_softmax(logits.exp(), tau, True, seed=9, backend=kernel.backend).cos()

    compare(torch.compile(sample, fullgraph=True), sample, kernel, (6, 20))

    @torch.compile(fullgraph=True)
    def two(logits: Tensor) -> Tensor:
        return torch.stack([gumbel_softmax(logits, backend=kernel.backend) for _ in range(2)])

    first, second = two(logits_on(kernel, 6, 20))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("tau", [None, 0.5])
def test_opcheck(kernel: Target, dtype: torch.dtype, layout: str, tau: float | None) -> None:
    """Schemas, fakes (strides included) and dispatch of the raw ops, whose gradients are the Function's."""
    ops = torch.ops.dvae_kernels
    overload = kernel.backend
    logits = logits_on(kernel, 3, 6, 5).detach().to(dtype)
    if layout == "transposed":
        logits = logits.transpose(0, 2)
    key = torch.tensor([1, 2], device=kernel.device)
    temperature = None if tau is None else torch.tensor(tau, device=kernel.device)
    common = (temperature, 0.7, 1)
    y = getattr(ops.gumbel_softmax_fwd, overload)(logits, key, *common, False, 0, dtype)
    grad = torch.randn_like(y)
    calls = [
        (ops.gumbel_softmax_fwd, (logits, key, *common, False, 0, dtype)),
        (ops.gumbel_softmax_fwd, (logits, key, *common, True, 5, torch.float32)),
        (ops.gumbel_softmax_bwd, (grad, y, *common, dtype)),
        (ops.gumbel_softmax_bwd, (grad[:1, :, :1].expand(grad.shape), y, *common, dtype)),
        (ops.gumbel_softmax_recompute_bwd, (grad, logits, key, *common, 0, False)),
        (ops.gumbel_softmax_recompute_bwd, (grad, logits, key, *common, 5, True)),
    ]
    for packet, args in calls:
        torch.library.opcheck(getattr(packet, overload), args)
