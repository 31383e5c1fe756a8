"""nn.Schedule: its curves, its state, what compiled graphs and autograd see of it, and its messages."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels import gumbel_softmax
from dvae_kernels.nn import Schedule


def values(schedule: Schedule, count: int) -> list[float]:
    result = []
    for _ in range(count):
        result.append(float(schedule))
        schedule.step()
    return result


@pytest.mark.parametrize(
    ("start", "end", "shape", "expected"),
    [
        (1, 3, "linear", [1, 1.5, 2, 2.5, 3, 3]),
        (3, -1, "linear", [3, 2, 1, 0, -1, -1]),
        (1, 16, "exponential", [1, 2, 4, 8, 16, 16]),
        (1, 0, "cosine", [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0, 0]),
        (0.7, 0.7, "exponential", [0.7] * 6),
    ],
)
def test_curves(start: float, end: float, shape: str, expected: list[float]) -> None:
    assert values(Schedule(start, end, 4, shape=shape), 6) == pytest.approx(expected, rel=1e-15, abs=1e-15)
    assert values(Schedule(start, end, 4, shape=shape, hold=2), 8) == pytest.approx(
        [expected[0]] * 2 + expected, abs=1e-15
    )


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine"])
def test_both_ends_are_exact(shape: str) -> None:
    schedule = Schedule(0.1, 1e-3, 3, shape=shape)
    assert (float(schedule), schedule().item()) == (0.1, torch.tensor(0.1).item())
    for _ in range(3):
        schedule.step()
    assert schedule().item() == torch.tensor(1e-3).item()
    assert float(schedule) == pytest.approx(1e-3, rel=1e-15)


def test_steps_change_the_position_in_place_and_leave_values_alone() -> None:
    schedule = Schedule(2, 1, 2)
    position, before = schedule.position, schedule()
    schedule.step()
    assert schedule.position is position and position.item() == 1
    assert (schedule().item(), before.item()) == (1.5, 2)
    assert (before.shape, before.dtype, before.requires_grad) == ((), torch.float32, False)


def test_a_step_between_forward_and_backward() -> None:
    tau, logits = Schedule(1, 0.1, 10), torch.randn(4, 5, requires_grad=True)
    y = gumbel_softmax(logits, tau(), seed=0)
    tau.step()
    (grad,) = torch.autograd.grad(y[:, 0].sum(), logits)
    (expected,) = torch.autograd.grad(gumbel_softmax(logits, torch.tensor(1.0), seed=0)[:, 0].sum(), logits)
    assert torch.equal(grad, expected)


def test_a_saved_schedule_goes_on_exactly() -> None:
    schedule = Schedule(0.5, 0.1, 1000, shape="exponential", hold=3)
    values(schedule, 17)
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    resumed = Schedule(0.5, 0.1, 1000, shape="exponential", hold=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed(), schedule())
    assert values(resumed, 30) == values(schedule, 30)


def test_a_copy_is_independent() -> None:
    schedule = Schedule(0, 1, 2)
    other = copy.deepcopy(schedule)
    other.step()
    assert (float(schedule), float(other)) == (0, 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_that_changes_dtype_keeps_it_exact(dtype: torch.dtype) -> None:
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2), "tau": Schedule(1 / 3, 1, 4099)})
    tau = model["tau"]
    assert isinstance(tau, Schedule)
    values(tau, 4098)  # a count that halves would round
    before = tau().item()
    for convert in (model.to, model.type):
        convert(dtype)
        assert next(model.parameters()).dtype == dtype
        assert (tau().dtype, tau.position.dtype) == (torch.float32, torch.int64)
        assert (tau().item(), tau.position.item()) == (before, 4098)
    assert (model.to("meta"), tau().device.type, tau().dtype)[1:] == ("meta", torch.float32)


def test_made_on_the_meta_device_it_is_right_however_it_is_loaded() -> None:
    saved = {"position": torch.tensor(4)}

    def on_meta() -> Schedule:
        with torch.device("meta"):
            return Schedule(1.0, 0.1, steps=10)

    assigned, copied, by_name, empty = (on_meta() for _ in range(4))
    assigned.load_state_dict(saved, assign=True)
    copied.to_empty(device="cpu").load_state_dict(saved)
    by_name._buffers["position"] = saved["position"].clone()
    empty.to_empty(device="cpu").reset_parameters()
    for schedule in (assigned, copied, by_name):
        assert schedule().item() == pytest.approx(0.64)
        schedule.step()
        assert (schedule().item(), float(schedule)) == (pytest.approx(0.55), pytest.approx(0.55))
    assert (empty.position.item(), empty().item()) == (0, 1)
    assert on_meta()().device.type == "meta"


def test_compiled_graphs_follow_it_without_recompiling() -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    schedule, x = Schedule(0, 3, 3), torch.ones(2)

    @torch.compile(fullgraph=True, backend=count)
    def scale(x: Tensor) -> Tensor:
        return x * schedule()

    @torch.compile(fullgraph=True, backend=count)
    def advance() -> None:
        schedule.step()

    torch._dynamo.reset()
    results = []
    for _ in range(3):
        results.append(scale(x)[0].item())
        advance()
    torch._dynamo.reset()
    assert (results, graphs) == ([0, 1, 2], 2)


def test_its_text_names_the_curve() -> None:
    assert repr(Schedule(1, 0.5, 10, shape="cosine")) == "Schedule(1 to 0.5 in 10 steps, cosine)"
    assert repr(Schedule(1, 8, 10, hold=3)) == "Schedule(1 to 8 in 10 steps after 3, linear)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("1", 2, 3), TypeError, "Schedule: expected start to be a float, got str"),
        ((1, True, 3), TypeError, "Schedule: expected end to be a float, got bool"),
        ((1, math.nan, 3), ValueError, "Schedule: expected end to be finite in float32, got nan"),
        ((1e39, 1, 3), ValueError, "Schedule: expected start to be finite in float32, got 1e+39"),
        ((1, 2, 3.0), TypeError, "Schedule: expected steps to be an int, got float"),
        ((1, 2, 0), ValueError, "Schedule: expected steps in [1, 2^32), got 0"),
        ((1, 2, 3, ["linear"]), TypeError, "Schedule: expected shape to be a str, got list"),
        ((1, 2, 3, "step"), ValueError, "Schedule: unknown shape 'step', expected one of linear, exponential, cosine"),
        ((1, 0, 3, "exponential"), ValueError, "Schedule: expected end >= 2^-126 for shape 'exponential', got 0"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Schedule(*arguments[:3], **({"shape": arguments[3]} if len(arguments) > 3 else {}))
    assert str(caught.value) == message


def test_bad_hold() -> None:
    with pytest.raises(TypeError, match=r"^Schedule: expected hold to be an int, got float$"):
        Schedule(1, 2, 3, hold=0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Schedule: expected hold in \[0, 2\^32\), got -1$"):
        Schedule(1, 2, 3, hold=-1)
