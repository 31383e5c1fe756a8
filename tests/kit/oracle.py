"""What every op is held to: a case, its float64 oracle, and the error that a backend may make.

The oracle is the reference on inputs upcast to float64. A backend's largest error may be twice what the reference
makes in the case's own dtype plus one rounding: 2 * (reference error + eps * max|oracle|). Both are taken over several
noise keys and cotangents, because a single small case can meet no rounding at all, or a gradient that cancels.
Float64 has no finer oracle, so it is held to a fixed number of roundings of the largest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kit.compare import assert_marks_best, assert_marks_positive, distance, largest
from kit.layouts import lay_out, storage_bytes
from kit.opinfo import Case, Inputs

SLACK = 2.0
FLOAT64_ROUNDINGS = 256


def noise_key(i: int, device: str | torch.device = "cpu") -> Tensor:
    return torch.tensor([0x0123456789ABCDEF + i, 7 + i], device=device)


def place(case: Case, device: str) -> Inputs:
    """The case's inputs on `device`, as leaves in the case's layout."""
    result = {}
    for name, value in case.inputs().items():
        value = value.to(device)
        view = lay_out(value, case.layout) if value.dim() else value.clone()
        result[name] = view.requires_grad_(view.is_floating_point())
    return result


def cotangent(case: Case, output: Tensor, seed: int) -> Tensor:
    """The same values for every backend and precision: what the output's dtype can hold."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(case.dtype)
    layout = "contiguous" if seed else case.grad_layout
    if layout == "expanded_all" and values.numel():
        values = values.flatten()[0].expand(values.shape)
    values = values.to(device=output.device, dtype=output.dtype)
    return lay_out(values, layout) if values.dim() else values


def run(case: Case, inputs: Inputs, backend: str, seed: int = 0) -> dict[str, Tensor]:
    """The output and the gradient to every input; `seed` chooses the noise and the cotangent."""
    device = next(iter(inputs.values())).device
    output = case.call(inputs, noise_key(seed, device), backend)
    grads = torch.autograd.grad(
        output, list(inputs.values()), cotangent(case, output, seed), materialize_grads=not output.numel()
    )
    return {"output": output.detach(), **{f"grad of {name}": g for name, g in zip(inputs, grads)}}


@dataclass(frozen=True)
class Expectation:
    oracle: Tensor
    budget: float


@cache
def expected(case: Case) -> dict[str, Expectation]:
    """For seed 0: the oracle's results, and how far a backend may be from each."""
    seeds = range(case.keys)
    oracle = [_run_reference(case, seed, torch.float64) for seed in seeds]
    own = [_run_reference(case, seed, None) for seed in seeds]
    expectations = {}
    for name, first in oracle[0].items():
        # a gradient passes through the output's dtype and its input's own
        eps = max(torch.finfo(own[0][name].dtype).eps, torch.finfo(case.dtype).eps)
        scale = max(largest(result[name]) for result in oracle)
        if case.dtype == torch.float64:
            budget = FLOAT64_ROUNDINGS * eps * scale
        else:
            budget = SLACK * (max(distance(o[name], e[name]) for o, e in zip(own, oracle)) + eps * scale)
        expectations[name] = Expectation(first, budget)
    return expectations


def _run_reference(case: Case, seed: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    values = {name: x.to(dtype).requires_grad_() for name, x in case.inputs().items()}
    return run(case, values, "reference", seed)


def assert_keeps_the_contract(case: Case, backend: str, device: str) -> None:
    """One call and its gradients: within the budget, with nothing changed around the inputs."""
    inputs = place(case, device)
    before = {name: storage_bytes(x) for name, x in inputs.items()}
    results = run(case, inputs, backend)
    for name, x in inputs.items():
        assert torch.equal(storage_bytes(x), before[name]), f"{name} or its surroundings changed"
    assert results["output"].dtype == case.dtype
    for name, expectation in expected(case).items():
        result = results[name]
        assert result.shape == expectation.oracle.shape
        if name == "output" and case.scores is not None:
            if result.numel():
                assert_marks_best(torch.atleast_1d(result), case.scores(inputs, noise_key(0)), case.dim)
            continue
        if name == "output" and case.odds is not None:
            assert_marks_positive(result, case.odds(inputs, noise_key(0)))
            continue
        error = distance(result, expectation.oracle)
        assert error <= expectation.budget, f"{name}: error {error:.3g} above the budget {expectation.budget:.3g}"
