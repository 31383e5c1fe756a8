"""The cases of categorical_kl, which draws no noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dvae_kernels import categorical_kl
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.categorical_kl import reference
from kit.dtypes import HALVES
from kit.layouts import repeated
from kit.opinfo import Case, ErrorInputs, Inputs, Op, OpInfo, RawCall, case_name
from kit.targets import Target

WIDTHS = (1, 2, 3, 7, 16, 17, 33, 48, 49, 64, 65, 129, 1000, 1031, 8192, 20011)
INF, NAN = math.inf, math.nan
# rows of special values
ROWS = [[0, -INF, 1], [-INF, -INF, -INF], [0, INF, 1], [0, NAN, -INF], [1, 2, 3]]


def laid_out(rows: list[list[float]], k: int, dim: int, target: Target) -> Tensor:
    """The rows, filled up with masks to k categories along `dim`."""
    x = torch.full((len(rows), k), -INF)
    x[:, : len(rows[0])] = torch.tensor(rows)
    return (x if dim else x.t().contiguous()).to(target.device)


def agree(target: Target, function: object, *inputs: Tensor) -> list[Tensor]:
    """The backend's value and gradients, equal to the reference's wherever those are not both infinite or NaN."""
    results = []
    for backend in (target.backend, "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves, backend)  # type: ignore[operator]
        results.append([value.detach(), *torch.autograd.grad(value.sum(), leaves)])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    return results[0]


def distribution_case(
    name: str,
    values: Callable[[tuple[int, ...], float], Inputs],
    evaluate: Callable[[Inputs, int, str], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    dim: int = -1,
    scale: float = 2.0,
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    **options: Any,
) -> Case:
    """One value a row, of `values(shape, scale)` by `evaluate(inputs, dim, backend)`."""

    def inputs() -> Inputs:
        result = values(shape, scale)
        for key, x in result.items():
            if x.dim():
                result[key] = repeated(x, layout).to(dtype).clone()
            else:
                result[key] = x.to(compute_dtype(dtype))
        return result

    return Case(
        name=case_name(name, shape, dtype, f"dim={dim}", scale=scale, layout=layout, grad_layout=grad_layout),
        inputs=inputs,
        call=lambda inputs, key, backend: evaluate(inputs, dim, backend),
        dtype=compute_dtype(dtype),
        layout=layout,
        grad_layout=grad_layout,
        dim=dim,
        **options,
    )


def distribution_cases(make: Callable[..., Case], largest: float = 1e4) -> list[Case]:
    """`largest`: the scale beyond which a gradient is nothing but rounding."""
    fp32, fp64 = torch.float32, torch.float64
    cases = [make((3, k), slow_interpreted=k > 10_000) for k in WIDTHS]
    # wide enough for two threads to share a row
    cases += [make((1, 40_000), slow_interpreted=True)]
    cases += [make(shape) for shape in ((0, 33), (1, 33), (17, 33), (5,))]
    cases += [make((2, 0, 3), dim=d) for d in (0, 1, 2)]
    cases += [make((5, k), dtype) for k in (5, 129, 1031) for dtype in (fp64, *HALVES)]
    cases += [make((3, 37, 5, 7), dtype, dim=1) for dtype in (fp64, *HALVES)]
    cases += [make((6, 100), dtype, scale=s) for s in (1e-3, largest) for dtype in (fp32, fp64)]
    cases += [
        make((2, 37, 5, 7), dim=d, layout=layout)
        for d, layout in (
            (1, "contiguous"),
            (1, "channels_last"),
            (1, "stepped"),
            (1, "guarded"),
            (1, "offset"),
            (1, "transposed"),
            (1, "expanded_first"),
            (1, "expanded_last"),
            (0, "contiguous"),
            (-2, "rotated"),
            (-1, "stepped"),
        )
    ]
    cases += [
        make((6, 67), dtype, dim=d, layout=layout, grad_layout=grad_layout)
        for dtype in (fp32, torch.float16)
        for d, layout, grad_layout in (
            (-1, "guarded", "offset"),
            (-1, "offset", "expanded_all"),
            (-1, "stepped", "stepped"),
            (0, "contiguous", "contiguous"),
            (-1, "expanded_first", "contiguous"),
        )
    ]
    cases += [make((3, 4, 50), layout="expanded_second")]  # [B, 1, K] expanded
    # no two groups hold the other dimensions of these
    cases += [make((2, 3, 4, 21), dim=d, layout="stepped") for d in (0, 1)]
    return cases


def values(prior: bool, shape: tuple[int, ...], scale: float = 1.0) -> Inputs:
    """In float64."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"logits": scale * torch.randn(shape, generator=generator, dtype=torch.float64)}
    if prior:
        inputs["prior"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return inputs


def evaluate(inputs: Inputs, dim: int, backend: str) -> Tensor:
    return categorical_kl(inputs["logits"], inputs.get("prior"), dim=dim, backend=backend)


def _cases() -> list[Case]:
    cases = distribution_cases(partial(distribution_case, "categorical_kl", partial(values, False), evaluate))
    # beyond a scale of 30, rows are one-hot, and the gradient under a prior is the rounding of its logarithm
    make = partial(distribution_case, "categorical_kl prior", partial(values, True), evaluate)
    return cases + distribution_cases(make, largest=30)


def _op(name: str, prior: bool) -> Op:
    return Op(name, partial(values, prior), lambda inputs, backend: evaluate(inputs, 1, backend), draws=False)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    prior = torch.randn_like(logits)
    grad = torch.randn_like(logits.select(1, 0), dtype=compute_dtype(logits.dtype))
    return [
        ("categorical_kl_fwd", (logits, None, 1)),
        ("categorical_kl_fwd", (logits, prior[:1].expand(prior.shape), 1)),
        ("categorical_kl_bwd", (grad, logits, None, 1, False)),
        ("categorical_kl_bwd", (grad, logits, prior, 1, False)),
        ("categorical_kl_bwd", (grad[:1].expand(grad.shape), logits, prior, 1, True)),
    ]


_X = torch.zeros(2, 3)
SCALAR = "expected at least one dimension, got a scalar"
OPINFO = OpInfo(
    "categorical_kl",
    _cases(),
    [_op("categorical_kl", False), _op("categorical_kl prior", True)],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            categorical_kl,
            {"logits": _X, "prior": torch.zeros(3)},
            {
                "scalar": ({"logits": torch.zeros(())}, ValueError, SCALAR),
                "prior dtype": ({"prior": _X.double()}, TypeError, "expected prior of dtype float32, got float64"),
                "prior device": ({"prior": _X.to("meta")}, ValueError, "expected prior on cpu, got meta"),
                "prior int": (
                    {"prior": 1}, TypeError, "expected prior to be a Tensor, got int (dim is keyword-only)",
                ),
                "prior shape": (
                    {"prior": torch.zeros(2)}, ValueError, "expected prior that broadcasts to (2, 3), got shape (2,)",
                ),
                "prior rank": (
                    {"prior": _X[None]}, ValueError, "expected prior that broadcasts to (2, 3), got shape (1, 2, 3)",
                ),
            },
        ),
    ],
)  # fmt: skip
