"""The cases of gumbel_softmax_log_prob, which draws no noise."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dvae_kernels import gumbel_softmax_log_prob
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.gumbel_softmax_log_prob import reference
from kit.opinfo import ErrorInputs, Inputs, Op, OpInfo, RawCall
from ops.categorical_kl.cases import SCALAR, distribution_case, distribution_cases


def values(shape: tuple[int, ...], scale: float = 1.0) -> Inputs:
    """In float64. A sample need not lie on the simplex, which the formula does not use."""
    generator = torch.Generator().manual_seed(0)
    return {
        "logits": scale * torch.randn(shape, generator=generator, dtype=torch.float64),
        "y": 0.05 + torch.rand(shape, generator=generator, dtype=torch.float64),
        "tau": torch.tensor(0.7, dtype=torch.float64),
    }


def evaluate(inputs: Inputs, dim: int, backend: str) -> Tensor:
    return gumbel_softmax_log_prob(inputs["y"], inputs["logits"], inputs["tau"], dim=dim, backend=backend)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    y = logits.softmax(1)
    grad = torch.randn_like(logits.select(1, 0), dtype=compute_dtype(logits.dtype))
    tau = torch.full((), 0.5, dtype=grad.dtype, device=logits.device)
    calls: list[RawCall] = []
    for temperature in (None, tau):
        calls += [
            ("gumbel_softmax_log_prob_fwd", (y, logits, temperature, 0.7, 1)),
            ("gumbel_softmax_log_prob_bwd", (grad, y, logits, temperature, 0.7, 1, False)),
            ("gumbel_softmax_log_prob_bwd", (grad, y, logits, temperature, 0.7, 1, True)),
        ]
    return calls


_X = torch.zeros(2, 3)
OPINFO = OpInfo(
    "gumbel_softmax_log_prob",
    distribution_cases(partial(distribution_case, "gumbel_softmax_log_prob", values, evaluate)),
    [
        Op(
            "gumbel_softmax_log_prob",
            values,
            lambda inputs, backend: evaluate(inputs, 1, backend),
            draws=False,
        )
    ],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            gumbel_softmax_log_prob,
            {"y": _X + 1 / 3, "logits": torch.zeros(3), "tau": 0.5},
            {
                "scalar": ({"y": torch.zeros(())}, ValueError, SCALAR),
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
