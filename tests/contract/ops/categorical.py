"""The cases of categorical_kl and gumbel_softmax_log_prob, which draw no noise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from contract.harness import Case, Errors, Inputs, Op, RawCall, Room, repeated
from dvae_kernels import _rng, categorical_kl, gumbel_softmax_log_prob
from dvae_kernels.ops.categorical_kl import reference as categorical_kl_reference
from dvae_kernels.ops.gumbel_softmax_log_prob import reference as log_prob_reference

reference: Any = SimpleNamespace(**(vars(categorical_kl_reference) | vars(log_prob_reference)))

WIDTHS = (1, 2, 3, 7, 16, 17, 33, 48, 49, 64, 65, 129, 1000, 1031, 8192, 20011)
HALVES = (torch.float16, torch.bfloat16)
FUNCTIONS = ("categorical_kl", "categorical_kl prior", "gumbel_softmax_log_prob")


def values(function: str, shape: tuple[int, ...], scale: float = 2.0) -> Inputs:
    """In float64. A sample need not lie on the simplex, which the formula does not use."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"logits": scale * torch.randn(shape, generator=generator, dtype=torch.float64)}
    if function == "categorical_kl prior":
        inputs["prior"] = torch.randn(shape, generator=generator, dtype=torch.float64)
    if function == "gumbel_softmax_log_prob":
        inputs["y"] = 0.05 + torch.rand(shape, generator=generator, dtype=torch.float64)
        inputs["tau"] = torch.tensor(0.7, dtype=torch.float64)
    return inputs


def evaluate(function: str, inputs: Inputs, dim: int, backend: str) -> Tensor:
    if function == "gumbel_softmax_log_prob":
        return gumbel_softmax_log_prob(inputs["y"], inputs["logits"], inputs["tau"], dim, backend=backend)
    return categorical_kl(inputs["logits"], dim, prior=inputs.get("prior"), backend=backend)


def categorical_case(
    function: str,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    dim: int = -1,
    scale: float = 2.0,
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    **options: Any,
) -> Case:
    def inputs() -> Inputs:
        result = values(function, shape, scale)
        for name, x in result.items():
            if x.dim():
                result[name] = repeated(x, layout).to(dtype).clone()
            else:
                result[name] = x.to(_rng.compute_dtype(dtype))
        return result

    words = [
        function, "x".join(map(str, shape)), str(dtype).removeprefix("torch."), f"dim={dim}",
        "" if scale == 2 else f"scale={scale:g}", "" if layout == "contiguous" else layout,
        "" if grad_layout == "contiguous" else f"grad_{grad_layout}",
    ]  # fmt: skip
    return Case(
        name=" ".join(word for word in words if word),
        inputs=inputs,
        call=lambda inputs, key, backend: evaluate(function, inputs, dim, backend),
        dtype=_rng.compute_dtype(dtype),
        layout=layout,
        grad_layout=grad_layout,
        dim=dim,
        **options,
    )


def _cases() -> list[Case]:
    make = categorical_case
    fp32, fp64 = torch.float32, torch.float64
    cases = []
    for function in FUNCTIONS:
        cases += [make(function, (3, k), slow_interpreted=k > 10_000) for k in WIDTHS]
        # wide enough for two threads to share a row
        cases += [make(function, (1, 40_000), slow_interpreted=True)]
        cases += [make(function, shape) for shape in ((0, 33), (1, 33), (17, 33), (5,))]
        cases += [make(function, (2, 0, 3), dim=d) for d in (0, 1, 2)]
        cases += [make(function, (5, k), dtype) for k in (5, 129, 1031) for dtype in (fp64, *HALVES)]
        cases += [make(function, (3, 37, 5, 7), dtype, dim=1) for dtype in (fp64, *HALVES)]
        # beyond, rows are one-hot, and the gradient under a prior is nothing but the rounding of its logarithm
        largest = 30 if function == "categorical_kl prior" else 1e4
        cases += [make(function, (6, 100), dtype, scale=s) for s in (1e-3, largest) for dtype in (fp32, fp64)]
        cases += [
            make(function, (2, 37, 5, 7), dim=d, layout=layout)
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
            make(function, (6, 67), dtype, dim=d, layout=layout, grad_layout=grad_layout)
            for dtype in (fp32, torch.float16)
            for d, layout, grad_layout in (
                (-1, "guarded", "offset"),
                (-1, "offset", "expanded_all"),
                (-1, "stepped", "stepped"),
                (0, "contiguous", "contiguous"),
                (-1, "expanded_first", "contiguous"),
            )
        ]
        cases += [make(function, (3, 4, 50), layout="expanded_second")]  # [B, 1, K] expanded
        # no two groups hold the other dimensions of these
        cases += [make(function, (2, 3, 4, 21), dim=d, layout="stepped") for d in (0, 1)]
    return cases


def _op(function: str) -> Op:
    return Op(
        function,
        lambda shape: values(function, shape, 1.0),
        lambda inputs, backend: evaluate(function, inputs, 1, backend),
        draws=False,
    )


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    prior, y = torch.randn_like(logits), logits.softmax(1)
    grad = torch.randn_like(logits.select(1, 0), dtype=_rng.compute_dtype(logits.dtype))
    tau = torch.full((), 0.5, dtype=grad.dtype, device=logits.device)
    calls: list[RawCall] = [
        ("categorical_kl_fwd", (logits, None, 1)),
        ("categorical_kl_fwd", (logits, prior[:1].expand(prior.shape), 1)),
        ("categorical_kl_bwd", (grad, logits, None, 1, False)),
        ("categorical_kl_bwd", (grad, logits, prior, 1, False)),
        ("categorical_kl_bwd", (grad[:1].expand(grad.shape), logits, prior, 1, True)),
    ]
    for temperature in (None, tau):
        calls += [
            ("gumbel_softmax_log_prob_fwd", (y, logits, temperature, 0.7, 1)),
            ("gumbel_softmax_log_prob_bwd", (grad, y, logits, temperature, 0.7, 1, False)),
            ("gumbel_softmax_log_prob_bwd", (grad, y, logits, temperature, 0.7, 1, True)),
        ]
    return calls


_X = torch.zeros(2, 3)
_SCALAR = "expected at least one dimension, got a scalar"
ROOM = Room(
    "categorical",
    _cases(),
    [_op(function) for function in FUNCTIONS],
    reference,
    _raw_calls,
    [
        Errors(
            categorical_kl,
            {"logits": _X, "prior": torch.zeros(3)},
            {
                "scalar": ({"logits": torch.zeros(())}, ValueError, _SCALAR),
                "prior dtype": ({"prior": _X.double()}, TypeError, "expected prior of dtype float32, got float64"),
                "prior device": ({"prior": _X.to("meta")}, ValueError, "expected prior on cpu, got meta"),
                "prior shape": (
                    {"prior": torch.zeros(2)}, ValueError, "expected prior that broadcasts to (2, 3), got shape (2,)",
                ),
                "prior rank": (
                    {"prior": _X[None]}, ValueError, "expected prior that broadcasts to (2, 3), got shape (1, 2, 3)",
                ),
            },
        ),
        Errors(
            gumbel_softmax_log_prob,
            {"y": _X + 1 / 3, "logits": torch.zeros(3), "tau": 0.5},
            {
                "scalar": ({"y": torch.zeros(())}, ValueError, _SCALAR),
                "y dtype": ({"y": _X.double()}, TypeError, "expected y of dtype float32, got float64"),
                "y of half logits": (
                    {"y": _X.double(), "logits": _X.half()}, TypeError,
                    "expected y of dtype float16 or float32, got float64",
                ),
                "y device": ({"y": _X.to("meta")}, ValueError, "expected y on cpu, got meta"),
                "logits shape": (
                    {"logits": torch.zeros(2)}, ValueError, "expected logits that broadcasts to (2, 3), got shape (2,)",
                ),
            },
            positive_tau=True,
        ),
    ],
)  # fmt: skip
