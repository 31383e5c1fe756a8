"""The tables of binary_concrete."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dvae_kernels import _rng, binary_concrete, binary_concrete_log_prob
from dvae_kernels._dtypes import compute_dtype
from dvae_kernels.ops.binary_concrete import reference
from kit.dtypes import HALVES, autocast_to
from kit.layouts import ELEMENTWISE_LAYOUTS, repeated
from kit.opinfo import Case, ErrorInputs, Inputs, Op, OpInfo, RawCall, RawError, case_name

COUNTS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 63, 64, 65, 1031, 2045, 2047, 2048, 2049, 20011, 300007)


def _logits(shape: tuple[int, ...], layout: str, scale: float = 2.0, seed: int = 0) -> Tensor:
    logits = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return repeated(logits, layout)


def _tau(tau: float | str, dtype: torch.dtype) -> Inputs:
    """The temperature as an input, where it is "tensor"."""
    return {"tau": torch.tensor(0.7, dtype=compute_dtype(dtype))} if tau == "tensor" else {}


def sample_case(
    shape: tuple[int, ...],
    hard: bool,
    dtype: torch.dtype = torch.float32,
    tau: float | str = "tensor",
    index_offset: int = 0,
    scale: float = 2.0,
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    autocast: bool = False,
    **options: Any,
) -> Case:
    def inputs() -> Inputs:
        return {"logits": _logits(shape, layout, scale).to(dtype).clone(), **_tau(tau, dtype)}

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        logits, temperature = inputs["logits"], inputs.get("tau", tau)
        with autocast_to(logits, dtype, autocast):
            return binary_concrete(
                logits, temperature, hard, key=key, index_offset=index_offset, backend=backend  # type: ignore[arg-type]
            )  # fmt: skip

    def odds(inputs: Inputs, key: Tensor) -> Tensor:
        logits = inputs["logits"].detach().cpu().double()
        return logits + _rng.logistic_like(logits, key, index_offset=_rng.as_int64(index_offset))

    return Case(
        name=case_name(
            "binary_concrete hard" if hard else "binary_concrete", shape, dtype, f"tau={tau}",
            f"from {index_offset}" if index_offset else "", scale=scale,
            layout=layout, grad_layout=grad_layout, autocast=autocast,
        ),
        inputs=inputs,
        call=call,
        dtype=torch.float32 if autocast else dtype,
        layout=layout,
        grad_layout=grad_layout,
        odds=odds if hard else None,
        **options,
    )  # fmt: skip


def log_prob_case(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    y_dtype: torch.dtype | None = None,
    tau: float | str = "tensor",
    layout: str = "contiguous",
    grad_layout: str = "contiguous",
    logits_shape: tuple[int, ...] | None = None,
    **options: Any,
) -> Case:
    def inputs() -> Inputs:
        # away from 1, which half formats reach by rounding: the oracle would not be clamped there
        y = torch.sigmoid(_logits(shape, layout, 1.5, seed=1)).clamp(0.01, 0.98).to(y_dtype or dtype)
        logits = _logits(shape if logits_shape is None else logits_shape, layout).to(dtype)
        return {"y": y.clone(), "logits": logits.clone(), **_tau(tau, dtype)}

    def call(inputs: Inputs, key: Tensor, backend: str) -> Tensor:
        temperature: Any = inputs.get("tau", tau)
        return binary_concrete_log_prob(inputs["y"], inputs["logits"], temperature, backend=backend)

    return Case(
        name=case_name(
            "binary_concrete_log_prob", shape, dtype, f"y={y_dtype}" if y_dtype else "", f"tau={tau}",
            "" if logits_shape is None else f"logits {list(logits_shape)}", layout=layout, grad_layout=grad_layout,
        ),
        inputs=inputs,
        call=call,
        dtype=compute_dtype(dtype),
        layout=layout,
        grad_layout=grad_layout,
        **options,
    )  # fmt: skip


def _cases() -> list[Case]:
    fp32, fp64 = torch.float32, torch.float64
    cases = []
    for hard in (False, True):
        cases += [sample_case((n,), hard, keys=4 if n > 10_000 else 16, slow_interpreted=n > 30_000) for n in COUNTS]
        cases += [sample_case(shape, hard) for shape in ((), (0,), (2, 0, 3), (3, 5, 7))]
        cases += [sample_case((n,), hard, dtype) for n in (5, 129, 2051) for dtype in (fp64, *HALVES)]
        cases += [sample_case((70,), hard, autocast=True, dtype=dtype) for dtype in HALVES]
        cases += [sample_case((66,), hard, tau=tau) for tau in (0.1, 1.0, 2.5)]
        cases += [sample_case((4, 65), hard, scale=s) for s in (30, 1e4)]
        # blocks that start in the middle of a counter, the 2^32nd counter inside of one, the last elements of all
        offsets = (1, 2, 3, 2047, 2**34 - 1003, 2**63 - 100, 2**64 - 4099)
        cases += [sample_case((4099,), hard, index_offset=offset) for offset in offsets]
        cases += [sample_case((70,), hard, dtype, index_offset=3) for dtype in (fp64, *HALVES)]
        cases += [sample_case((2, 3, 5, 7), hard, layout=x, grad_layout=g) for x, g in ELEMENTWISE_LAYOUTS]
        cases += [sample_case((2, 3, 5, 7), hard, torch.float16, layout="channels_last", index_offset=2)]
    cases += [log_prob_case((n,)) for n in (1, 3, 16, 17, 65, 2048, 2049, 20011)]
    cases += [log_prob_case(shape) for shape in ((), (0,), (2, 0, 3), (3, 5, 7))]
    cases += [log_prob_case((n,), dtype) for n in (5, 129, 2051) for dtype in (fp64, *HALVES)]
    cases += [log_prob_case((70,), dtype, fp32) for dtype in HALVES]
    cases += [log_prob_case((66,), tau=tau) for tau in (0.1, 1.0, 2.5)]
    cases += [log_prob_case((2, 3, 5, 7), layout=x, grad_layout=g) for x, g in ELEMENTWISE_LAYOUTS]
    cases += [log_prob_case((4, 3, 5), logits_shape=shape) for shape in ((), (5,), (4, 1, 5))]
    cases += [log_prob_case((5,), logits_shape=(4, 3, 5))]
    return cases


def _op(hard: bool, tau: float | None = None) -> Op:
    """With the temperature an input unless it is fixed."""

    def inputs(shape: tuple[int, ...]) -> Inputs:
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return {"logits": logits} | ({"tau": torch.tensor(0.7, dtype=torch.float64)} if tau is None else {})

    def call(inputs: Inputs, backend: str, **noise: Any) -> Tensor:
        temperature: Any = inputs.get("tau", tau)
        return binary_concrete(inputs["logits"], temperature, hard, index_offset=5, backend=backend, **noise)

    return Op(f"binary_concrete {'hard' if hard else 'soft'}" + ("" if tau is None else f" tau={tau}"), inputs, call,
              step=hard)  # fmt: skip


def _log_prob_op() -> Op:
    def inputs(shape: tuple[int, ...]) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        y, logits = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        return {"y": torch.sigmoid(y) * 0.8 + 0.1, "logits": logits, "tau": torch.tensor(0.7, dtype=torch.float64)}

    def call(inputs: Inputs, backend: str) -> Tensor:
        return binary_concrete_log_prob(inputs["y"], inputs["logits"], inputs["tau"], backend=backend)

    return Op("binary_concrete_log_prob", inputs, call, draws=False)


def _raw_calls(logits: Tensor, key: Tensor) -> list[RawCall]:
    calls: list[RawCall] = []
    y, dtype, compute = torch.sigmoid(logits), logits.dtype, compute_dtype(logits.dtype)
    grad = torch.randn_like(y)
    log_grad = grad.to(compute)
    for tau in (None, torch.full((), 0.5, dtype=compute, device=logits.device)):
        common = (tau, 0.7)
        calls += [
            ("binary_concrete_fwd", (logits, key, *common, False, 0, dtype)),
            ("binary_concrete_fwd", (logits, key, *common, True, 5, compute)),
            ("binary_concrete_bwd", (grad, logits, key, *common, 0, False)),
            ("binary_concrete_bwd", (grad[:1].expand(grad.shape), logits, key, *common, 5, True)),
            ("binary_concrete_log_prob_fwd", (y, logits, *common)),
            ("binary_concrete_log_prob_fwd", (y.to(compute), logits, *common)),
            ("binary_concrete_log_prob_bwd", (log_grad, y, logits, *common, False)),
            ("binary_concrete_log_prob_bwd", (log_grad, y.to(compute), logits, *common, True)),
        ]
    return calls


X = torch.zeros(2, 3)
_range = "expected elements within [0, 2^64), got 6 from index_offset"
OPINFO = OpInfo(
    "binary_concrete",
    _cases(),
    [_op(False), _op(True), _op(False, 0.7), _log_prob_op()],
    reference,
    _raw_calls,
    [
        ErrorInputs(
            binary_concrete,
            {"logits": X},
            {
                "index_offset negative": ({"index_offset": -1}, ValueError, f"{_range} -1"),
                "index_offset high": ({"index_offset": 2**64 - 5}, ValueError, f"{_range} {2**64 - 5}"),
                "index_offset float": (
                    {"index_offset": 0.0}, TypeError, "expected index_offset to be an int, got float",
                ),
                "index_offset bool": (
                    {"index_offset": True}, TypeError, "expected index_offset to be an int, got bool",
                ),
            },
        ),
        ErrorInputs(
            binary_concrete_log_prob,
            {"y": X + 0.5, "logits": X, "tau": 1.0},
            {
                "logits elsewhere": (
                    {"logits": X.to("meta")}, ValueError, "expected logits on cpu, got meta",
                ),
                "y dtype": ({"y": X.double()}, TypeError, "expected y of dtype float32 as the logits, got float64"),
                "y half": ({"y": X.half()}, TypeError, "expected y of dtype float32 as the logits, got float16"),
                "shapes": (
                    {"logits": torch.zeros(4, 3)}, ValueError,
                    "expected y and logits that broadcast, got shapes (2, 3) and (4, 3)",
                ),
            },
            positive_tau=True,
        ),
    ],
    raw_errors=[
        RawError("grad", lambda grad: grad[:1], "tensors of one shape"),
    ],
)  # fmt: skip
