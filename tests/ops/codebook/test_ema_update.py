"""The update of a codebook by moving averages: against the formulas of its sources, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dvae_kernels import code_statistics, ema_update_
from kit.dtypes import HALVES
from kit.layouts import META

State = dict[str, Tensor]


def state(*shape: int, dtype: torch.dtype = torch.float64) -> State:
    """Of a codebook [K, D] or [H, K, D], and a batch whose last code has no rows."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(shape, generator=generator, dtype=torch.float64)
    size = 10 * torch.rand(shape[:-1], generator=generator, dtype=torch.float64) + 1
    counts = torch.randint(0, 6, shape[:-1], generator=generator).double()
    counts[..., -1] = 0
    sums = counts.unsqueeze(-1) * torch.randn(shape, generator=generator, dtype=torch.float64)
    total = codes * size.unsqueeze(-1)
    tensors = {"codebook": codes, "cluster_size": size, "code_sum": total, "counts": counts, "sums": sums}
    return {name: x.to(dtype) for name, x in tensors.items()}


def copies(tensors: State) -> State:
    return {name: x.clone() for name, x in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 2)], ids=str)
def test_the_update_of_the_paper(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Equations 6 to 8, code by code, several times over."""
    ours, exact, decay = state(*shape, dtype=dtype), state(*shape), 0.9
    size, total = exact["cluster_size"].view(-1), exact["code_sum"].view(-1, shape[-1])
    for _ in range(5):
        ema_update_(**ours, decay=decay)
        for i, (n, s) in enumerate(zip(exact["counts"].view(-1), exact["sums"].view(-1, shape[-1]))):
            size[i] = size[i] * decay + n * (1 - decay)
            total[i] = total[i] * decay + s * (1 - decay)
    tolerance = {"rtol": 0.0, "atol": 40 * torch.finfo(dtype).eps}
    torch.testing.assert_close(ours["cluster_size"].double().view(-1), size, rtol=8 * torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(ours["codebook"].double().view(-1, shape[-1]), total / size[:, None], **tolerance)


def test_laplace_smoothing_of_encodec() -> None:
    """cluster_size is smoothed, and the average divided by it: encodec/quantization/core_vq.py, lucidrains'
    vector_quantize_pytorch."""
    ours, eps, decay = state(7, 5), 1e-2, 0.8
    size = ours["cluster_size"] * decay + ours["counts"] * (1 - decay)
    average = ours["code_sum"] * decay + ours["sums"] * (1 - decay)
    smoothed = (size + eps) / (size.sum() + 7 * eps) * size.sum()
    ema_update_(**ours, decay=decay, laplace=eps)
    torch.testing.assert_close(ours["codebook"], average / smoothed[:, None], rtol=1e-14, atol=0)
    torch.testing.assert_close(ours["cluster_size"], size, rtol=1e-15, atol=0)  # stored without it


@pytest.mark.parametrize("tensor", [False, True], ids=["int", "tensor"])
def test_zero_debiasing_of_sonnet(tensor: bool) -> None:
    """Sonnet v2: ExponentialMovingAverage keeps a hidden sum from zero and divides it by 1 - decay^counter; then
    VectorQuantizerEMA smooths the averages. Each head by itself."""
    ours, eps, decay = state(2, 6, 3), 0.5, 0.95
    ours["cluster_size"].zero_()
    ours["code_sum"].zero_()
    hidden_size, hidden_sum = (torch.zeros_like(ours[name]) for name in ("counts", "sums"))
    for step in range(1, 4):
        hidden_size = hidden_size - (hidden_size - ours["counts"]) * (1 - decay)
        hidden_sum = hidden_sum - (hidden_sum - ours["sums"]) * (1 - decay)
        size, average = hidden_size / (1 - decay**step), hidden_sum / (1 - decay**step)
        n = size.sum(1, keepdim=True)
        codes = average / ((size + eps) / (n + 6 * eps) * n).unsqueeze(-1)
        before = ours["codebook"].clone()
        ema_update_(**ours, decay=decay, laplace=eps, steps=torch.full((1, 1, 1), step) if tensor else step)
        has_rows = ours["counts"] > 0
        torch.testing.assert_close(ours["codebook"][has_rows], codes[has_rows], rtol=1e-13, atol=0)
        assert torch.equal(ours["codebook"][~has_rows], before[~has_rows])


def test_the_ends_of_decay() -> None:
    ours, before = state(7, 5), state(7, 5)
    ema_update_(**ours, decay=1, laplace=0.1, steps=3)  # nothing was ever averaged, so there is nothing to smooth
    for name in ("cluster_size", "code_sum"):
        assert torch.equal(ours[name], before[name])
    torch.testing.assert_close(ours["codebook"], before["codebook"])
    for steps in (None, 1, torch.tensor([[[2]]])):
        ours = copies(before)
        ema_update_(**ours, decay=0.0, steps=steps)
        used = ours["counts"] > 0
        assert torch.equal(ours["cluster_size"], ours["counts"])
        assert torch.equal(ours["codebook"][used], (ours["sums"] / ours["counts"][:, None])[used])
        assert torch.equal(ours["codebook"][~used], before["codebook"][~used])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_cluster_that_decays_to_nothing(dtype: torch.dtype) -> None:
    """20,000 updates without a row: the code stays where it is, and comes back with the first rows."""
    ours = state(4, 3, dtype=dtype)
    before = copies(ours)
    ours["counts"].zero_()
    ours["sums"].zero_()
    for _ in range(20_000):
        ema_update_(**ours)
        assert ours["codebook"].isfinite().all()
    assert (ours["cluster_size"] < 2.0**-100).all()
    # 6,900 updates moved both averages, each with two roundings of its own
    torch.testing.assert_close(ours["codebook"], before["codebook"], rtol=2e4 * torch.finfo(dtype).eps, atol=1e-9)
    stopped = ours["codebook"].clone()
    ema_update_(**ours)
    assert torch.equal(ours["codebook"], stopped)
    ours["counts"][1], ours["sums"][1] = 2.0, torch.tensor([2.0, 4.0, 6.0], dtype=dtype)
    ema_update_(**ours)
    torch.testing.assert_close(ours["codebook"][1], torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
    assert torch.equal(ours["codebook"][[0, 2, 3]], stopped[[0, 2, 3]])


def test_statistics_of_bad_rows_keep_the_codebook_finite() -> None:
    x = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [math.inf, 1.0], [3.0, 4.0]])
    codebook, size, total = torch.zeros(2, 2), torch.ones(2), torch.zeros(2, 2)
    ema_update_(codebook, size, total, *code_statistics(x, torch.tensor([0, 0, 1, -1]), 2), decay=0.5)
    assert codebook.tolist() == [[0.5, 1.0], [0.0, 0.0]] and size.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_a_parameter_is_updated_in_place(dtype: torch.dtype) -> None:
    """Its version counter moves, as saved tensors need; a half codebook has averages in float32."""
    ours = state(7, 5, dtype=torch.float32)
    wide = copies(ours)
    ours["codebook"] = torch.nn.Parameter(ours["codebook"].to(dtype))
    version, memory = ours["codebook"]._version, ours["codebook"].data_ptr()
    ema_update_(**ours)
    ema_update_(**wide)
    assert ours["codebook"]._version > version and ours["codebook"].data_ptr() == memory
    assert ours["codebook"].requires_grad and ours["codebook"].is_leaf
    assert torch.equal(ours["codebook"], wide["codebook"].to(dtype))


def test_it_compiles_without_compiling_again() -> None:
    ours = state(4, 3, dtype=torch.float32)
    ours["codebook"].requires_grad_()
    with torch.no_grad():
        eager = copies(ours)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(ema_update_, fullgraph=True, backend=count)
    step = torch.zeros((), dtype=torch.int64)
    for _ in range(3):
        step += 1
        compiled(**ours, laplace=1e-5, steps=step)
        ema_update_(**eager, laplace=1e-5, steps=step)
    for name, x in ours.items():
        assert torch.equal(x, eager[name]), name
    assert len(graphs) == 1


class Interrupted(TorchDispatchMode):
    """Raises at the `last` operation, and notes those before it."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.names = last, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        if len(self.names) == self.last:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def test_nothing_is_written_before_all_is_known() -> None:
    ours, steps = state(4, 3), torch.tensor(2)
    with Interrupted(0) as whole:
        ema_update_(**ours, laplace=0.1, steps=steps)
    assert whole.names[-3:] == ["aten::copy_"] * 3
    for last in range(1, len(whole.names) - 1):
        ours = state(4, 3)
        with pytest.raises(KeyboardInterrupt), Interrupted(last):
            ema_update_(**ours, laplace=0.1, steps=steps)
        assert all(torch.equal(x, y) for x, y in zip(ours.values(), state(4, 3).values())), whole.names[last - 1]


GOOD = state(4, 3, dtype=torch.float32)


def errors() -> Iterator[tuple[str, dict[str, Any], type[Exception], str]]:
    for name, x in GOOD.items():
        shape = "(4, 3)" if x.dim() == 2 else "(4,)"
        yield f"{name} list", {name: [0.0]}, TypeError, f"expected {name} to be a Tensor, got list"
        yield f"{name} integer", {name: x.long()}, TypeError, f"expected floating-point {name}, got int64"
        if name == "codebook":
            expected = "expected codebook of shape [K, D] or [H, K, D], got (3,)"
            yield f"{name} shape", {name: x[0]}, ValueError, expected
            continue
        dtypes = "float32 or float64" if name == "cluster_size" else "float32"
        yield f"{name} half", {name: x.half()}, TypeError, f"expected {name} of dtype {dtypes}, got float16"
        yield f"{name} device", {name: x.to(META)}, ValueError, f"expected {name} on cpu, got meta"
        got = str((3, *x.shape[1:])) if x.dim() == 2 else "(3,)"
        yield f"{name} shape", {name: x[:3]}, ValueError, f"expected {name} of shape {shape}, got {got}"
    yield "mixed", {"cluster_size": GOOD["cluster_size"].double()}, TypeError, (
        "expected code_sum of dtype float64, got float32"
    )  # fmt: skip
    yield "shared memory", {"code_sum": torch.zeros(1, 3).expand(4, 3)}, ValueError, (
        "expected code_sum whose elements do not share memory, got strides (0, 1)"
    )  # fmt: skip
    for value in (-0.1, 1.5, math.nan, math.inf):
        yield f"decay {value}", {"decay": value}, ValueError, f"expected decay in [0, 1], got {value}"
    for value in (-1e-9, math.nan, math.inf):
        yield f"laplace {value}", {"laplace": value}, ValueError, f"expected finite laplace >= 0, got {value}"
    yield "decay bool", {"decay": True}, TypeError, "expected decay to be a float, got bool"
    yield "laplace text", {"laplace": "0"}, TypeError, "expected laplace to be a float, got str"
    yield "steps zero", {"steps": 0}, ValueError, "expected steps in [1, 2^32), got 0"
    yield "steps float", {"steps": 1.0}, TypeError, "expected steps to be an int, got float"
    yield "steps dtype", {"steps": torch.tensor(1.0)}, TypeError, "expected steps of dtype int64, got float32"
    yield "steps size", {"steps": torch.tensor([1, 2])}, ValueError, "expected steps with one element, got shape (2,)"
    yield "steps device", {"steps": torch.tensor(1, device=META)}, ValueError, "expected steps on cpu, got meta"


@pytest.mark.parametrize("arguments, error, message", [pytest.param(*case[1:], id=case[0]) for case in errors()])
def test_errors_change_nothing(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    tensors = copies(GOOD)
    with pytest.raises(error) as raised:
        ema_update_(**{**tensors, "laplace": 0.1, "steps": 1, **arguments})
    assert str(raised.value) == f"ema_update_: {message}"
    assert all(torch.equal(x, GOOD[name]) and x._version == 0 for name, x in tensors.items())


def test_nothing_is_written_where_a_tensor_may_not_be() -> None:
    with torch.inference_mode():
        codebook = torch.randn(4, 2)
    size, total = torch.ones(4), torch.randn(4, 2)
    before = size.clone(), total.clone()
    with pytest.raises(ValueError, match="expected codebook that may be written here, got a tensor made in inference"):
        ema_update_(codebook, size, total, torch.full((4,), 2.0), torch.randn(4, 2))
    assert torch.equal(size, before[0]) and torch.equal(total, before[1])
    with torch.inference_mode():
        ema_update_(codebook, size, total, torch.full((4,), 2.0), torch.randn(4, 2))


def test_memory_that_is_shared_is_refused() -> None:
    counts, sums, memory = torch.ones(4), torch.arange(8.0).view(4, 2), torch.zeros(40)
    overlapping = memory.as_strided((4, 2), (1, 1))
    with pytest.raises(ValueError, match=r"expected codebook whose elements do not share memory, got strides \(1, 1\)"):
        ema_update_(overlapping, torch.zeros(4), torch.zeros(4, 2), counts, sums)
    codebook = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="expected code_sum and codebook that do not share memory"):
        ema_update_(codebook, torch.ones(4), codebook, counts, sums)
    with pytest.raises(ValueError, match="expected cluster_size and codebook that do not share memory"):
        ema_update_(memory[:8].view(4, 2), memory[7:11], torch.zeros(4, 2), counts, sums)
    # neighbours, columns of one matrix, and a permuted layout are apart
    state, right = torch.zeros(4, 5), torch.zeros(4, 2)
    ema_update_(state[:, 2:4], state[:, 4], state[:, :2], counts, sums, decay=0.0)
    ema_update_(right, torch.zeros(4), torch.zeros(4, 2), counts, sums, decay=0.0)
    assert torch.equal(state[:, 2:4], right) and torch.equal(state[:, :2], sums) and torch.equal(state[:, 4], counts)
    permuted = torch.zeros(2, 4).T
    ema_update_(permuted, torch.zeros(4), torch.zeros(4, 2), counts, sums, decay=0.0)
    assert torch.equal(permuted, right)
