"""The cases of gumbel_softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import gumbel_argmax, gumbel_softmax
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.gumbel_softmax import reference
from kit.dtypes import HALVES
from kit.opinfo import Case, ErrorInputs, Inputs, Op, OpInfo, RawCall, RawError
from ops.hard_estimators import cases as hard_estimators

WIDTHS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1000, 1024, 1031, 8192, 20011, 262144)


def _cases() -> list[Case]:
    make = hard_estimators.sample_case
    fp32, fp64 = torch.float32, torch.float64
    cases = []
    for hard in (False, True):
        tau = "tensor" if hard else 1.0
        for k in WIDTHS:
            rows = 1 if k > 100_000 else 2 if k > 8192 else 3
            cases.append(make((rows, k), hard, tau=tau, slow_interpreted=k > (10_000 if hard else 30_000)))
        cases += [make((rows, 33), hard, tau="tensor") for rows in (0, 1, 2, 17)]
        cases += [make((2, 0, 3), hard, dim=d) for d in (0, 1, 2)]
        cases += [make((), hard), make((), hard, dim=0), make((5,), hard)]
        cases += [make((5, k), hard, dtype, tau="tensor") for k in (5, 64, 129, 1031) for dtype in (fp64, *HALVES)]
        cases += [make((4, 65), hard, tau=tau) for tau in (0.1, 0.5, 2.5, "tensor")]
        # tau of another layout of the work: columns
        cases += [make((3, 37, 5, 7), hard, dtype, tau="tensor", dim=1) for dtype in (fp64, *HALVES)]
        cases += [make((6, 100), hard, dtype, tau, scale=s)
                  for s in (30, 1e4) for dtype, tau in ((fp32, "tensor"), (fp64, 0.5))]  # fmt: skip
        # the model's layout, B x K x H x W around dim=1
        cases += [
            make((2, 37, 5, 7), hard, tau=tau, dim=d, layout=layout, grad_layout=grad_layout)
            for d, layout, grad_layout in (
                (1, "contiguous", "contiguous"),
                (1, "channels_last", "channels_last"),
                (1, "channels_last", "contiguous"),
                (1, "stepped", "contiguous"),
                (1, "guarded", "guarded"),
                (1, "offset", "offset"),
                (1, "transposed", "contiguous"),
                (1, "contiguous", "transposed"),
                (1, "contiguous", "expanded_all"),
                (1, "expanded_first", "contiguous"),
                (1, "expanded_second", "contiguous"),
                (1, "expanded_last", "contiguous"),
                (0, "contiguous", "contiguous"),
                (-2, "rotated", "stepped"),
                (-1, "stepped", "expanded_all"),
                (-1, "rotated", "contiguous"),
            )
        ]
        cases += [
            make((6, 67), hard, dtype, tau="tensor", dim=d, layout=layout, grad_layout=grad_layout)
            for dtype in (fp32, torch.float16)
            for d, layout, grad_layout in (
                (-1, "guarded", "offset"),
                (-1, "offset", "expanded_all"),
                (-1, "stepped", "stepped"),
                (-1, "transposed", "contiguous"),
                (0, "contiguous", "transposed"),
                (-1, "expanded_first", "contiguous"),
                (-1, "expanded_last", "guarded"),
            )
        ]
        cases += [make((3, 4, 50), hard, tau="tensor", layout="expanded_second")]  # [B, 1, K] expanded
        # no two groups hold the other dimensions of these
        cases += [make((2, 3, 4, 21), hard, tau="tensor", dim=d, layout="stepped") for d in (0, 1, 2, 3)]
        cases += [make((4, 40), hard, dtype, tau="tensor", autocast=True) for dtype in HALVES]
    return cases


CASES = _cases()


def _op(hard: bool, tau: float | None = None) -> Op:
    """With the temperature an input unless it is fixed."""

    def inputs(shape: tuple[int, ...]) -> Inputs:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return {"logits": logits} | ({"tau": torch.tensor(0.7, dtype=torch.float64)} if tau is None else {})

    def call(inputs: Inputs, backend: str, **noise: Any) -> Tensor:
        return gumbel_softmax(inputs["logits"], inputs.get("tau", tau), hard, dim=1, backend=backend, **noise)  # type: ignore[arg-type]

    name = f"gumbel_softmax {'hard' if hard else 'soft'}" + ("" if tau is None else f" tau={tau}")
    return Op(name, inputs, call, step=hard)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    calls: list[RawCall] = []
    y, dtype = logits.softmax(1), logits.dtype
    grad = torch.randn_like(y)
    for tau in (None, torch.full((), 0.5, dtype=compute_dtype(dtype), device=logits.device)):
        common = (tau, 0.7, 1)
        calls += [
            ("gumbel_softmax_fwd", (logits, key, *common, False, 0, dtype)),
            ("gumbel_softmax_fwd", (logits, key, *common, True, 5, compute_dtype(dtype))),
            ("gumbel_softmax_bwd", (grad, y, *common, dtype)),
            ("gumbel_softmax_bwd", (grad[:1].expand(grad.shape), y, *common, dtype)),
            ("gumbel_softmax_recompute_bwd", (grad, logits, key, *common, 0, False)),
            ("gumbel_softmax_recompute_bwd", (grad, logits, key, *common, 5, True)),
            ("gumbel_softmax_recompute_bwd", (grad, logits, None, *common, 0, True)),
        ]
    calls += [
        ("gumbel_argmax", (logits, key, 1, 5)),
        ("gumbel_onehot", (logits, key, 1, 5, compute_dtype(dtype))),
    ]
    return calls


OPINFO = OpInfo(
    "gumbel_softmax",
    CASES,
    [_op(False), _op(True), _op(False, 0.7)],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            gumbel_softmax,
            {"logits": torch.zeros(2, 3)},
            hard_estimators.ERRORS
            | {
                "dim scalar": ({"logits": torch.zeros(()), "dim": 1}, ValueError, "expected dim in [-1, 0], got 1"),
            },
        ),
        ErrorInputs(
            gumbel_argmax,
            {"logits": torch.zeros(2, 3)},
            {
                "no category": (
                    {"logits": torch.zeros(2, 0), "dim": 1},
                    ValueError,
                    "expected at least one category along dim 1, got shape (2, 0)",
                ),
                "dim scalar": ({"logits": torch.zeros(()), "dim": 1}, ValueError, "expected dim in [-1, 0], got 1"),
            },
        ),
    ],
    raw_errors=[
        RawError("grad", lambda grad: grad[:1], "tensors of one shape"),
    ],
)
