"""Raw CPU ops called by hand: what cannot be read as meant is refused, and nothing outside is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dvae_kernels import _extension

X = torch.zeros(2, 5)
KEY = torch.tensor([1, 2])
INDEX = torch.zeros(2, dtype=torch.int64)
ROWS = torch.zeros(2)

# Arguments by name; a call is a tuple of them, in which names stand for good ones.
GOOD: dict[str, Any] = {
    "key": KEY, "tau": None, "dim": 1, "index": INDEX, "grad": X, "noise": X, "beta": None, "kind": "power",
    "codes": X, "indices": INDEX, "row_codes": X, "row_grads": X, "losses": ROWS,
    "book": X[None], "metric": "l2", "precision": "exact",
}  # fmt: skip
CALLS: dict[str, tuple[Any, ...]] = {
    "gumbel_argmax": (X, "key", "dim", 0),
    "gumbel_onehot": (X, "key", "dim", 0, torch.float32),
    "gumbel_softmax_fwd": (X, "key", "tau", 1.0, "dim", False, 0, torch.float32),
    "gumbel_softmax_bwd": ("grad", X, "tau", 1.0, "dim", torch.float32),
    "gumbel_softmax_recompute_bwd": ("grad", X, "key", "tau", 1.0, "dim", 0, True),
    "reinmax_bwd": ("grad", X, "index", "tau", 1.0, "dim"),
    "gumbel_rao_bwd": ("grad", X, "key", "index", "tau", 1.0, "dim", 2, 0),
    "categorical_kl_fwd": (X, None, "dim"),
    "categorical_kl_bwd": (ROWS, X, None, "dim", False),
    "gumbel_softmax_log_prob_fwd": (X, X, "tau", 1.0, "dim"),
    "gumbel_softmax_log_prob_bwd": (ROWS, X, X, "tau", 1.0, "dim", True),
    "binary_concrete_fwd": (X, "key", "tau", 1.0, False, 0, torch.float32),
    "binary_concrete_bwd": ("grad", X, "key", "tau", 1.0, 0, True),
    "binary_concrete_log_prob_fwd": (X, X, "tau", 1.0),
    "binary_concrete_log_prob_bwd": ("grad", X, X, "tau", 1.0, True),
    "smoothing_fwd": (X, None, "key", "beta", 2.0, "kind", 0, torch.float32),
    "smoothing_bwd": ("grad", X, "noise", None, "beta", 2.0, "kind", 0, True, True),
    "smoothing_log_prob_fwd": (X, X, "beta", 2.0, "kind"),
    "smoothing_log_prob_bwd": ("grad", X, X, "beta", 2.0, "kind", True),
    "vector_quantize_fwd": (X, "codes", "indices", True),
    "vector_quantize_bwd": ("row_grads", "losses", X, "row_codes", "indices", 0.25, 1.0, True, True),
    "nearest_code": (X[None], "book", "metric", "precision", True),
}
BAD: list[tuple[str, Any, str]] = [
    ("key", KEY[:1], "a key of two int64 words"),
    ("key", KEY.int(), "a key of two int64 words"),
    ("tau", torch.ones(0), "tau to be one float32 or float64 value"),
    ("tau", torch.ones((), dtype=torch.half), "tau to be one float32 or float64 value"),
    ("dim", -1, "dim"),
    ("dim", 2, "[dD]im"),
    ("index", INDEX[:1], "one int64 index for each row"),
    ("index", INDEX.int(), "one int64 index for each row"),
    ("index", INDEX + 5, "indices below the number of categories"),
    ("grad", X[:1], "tensors of one shape"),
    ("noise", X[:1], "noise of the shape of the logits, in the compute type"),
    ("noise", X.double(), "noise of the shape of the logits, in the compute type"),
    ("beta", X[:1], "beta of the shape of the logits, in the compute type"),
    ("beta", torch.ones((), dtype=torch.half), "expected beta in the compute type"),
    ("kind", "powers", "unknown kind"),
    ("codes", X[:, :2], "codes as wide as x"),
    ("codes", X.double(), "both float64 or neither"),
    ("indices", INDEX[:1], "one index a row"),
    ("indices", INDEX.int(), "expected int64 indices"),
    ("row_codes", X[:1], "one code a row"),
    ("row_grads", X[:1], "grad of the shape of x"),
    ("row_grads", X.half(), "tensors of one dtype"),
    ("losses", ROWS.double(), "one value in the compute type for each row"),
    ("losses", ROWS[:1], "one value in the compute type for each row"),
    ("book", X, "x and codebook of three dimensions"),
    ("book", X[None, :, :4], "x and codebook with the same heads and columns"),
    ("book", X[None].expand(2, -1, -1), "x and codebook with the same heads and columns"),
    ("book", X[None, :0], "a codebook that is not empty"),
    ("book", X[None].double(), "x and codebook both float64 or neither"),
    ("book", X[None].long(), "a floating-point tensor"),
    ("metric", "l1", "unknown metric l1"),
    ("precision", "int4", "unknown precision int4"),
]
CASES = [
    pytest.param(name, argument, bad, message, id=f"{name}-{argument}{number}")
    for number, (argument, bad, message) in enumerate(BAD)
    for name, call in CALLS.items()
    if any(value is argument for value in call)
]


@pytest.fixture(autouse=True)
def cpp() -> Iterator[None]:
    if reason := _extension.load("_C"):
        pytest.skip(reason)
    yield


def call(name: str, **arguments: Any) -> Any:
    values = {**GOOD, **arguments}
    op = getattr(torch.ops.dvae_kernels, name).cpp
    return op(*(values[value] if isinstance(value, str) else value for value in CALLS[name]))


@pytest.mark.parametrize(("name", "argument", "bad", "message"), CASES)
def test_bad_arguments_are_refused(name: str, argument: str, bad: Any, message: str) -> None:
    call(name)
    with pytest.raises((RuntimeError, IndexError), match=message):
        call(name, **{argument: bad})


def test_a_gradient_to_no_prior_is_refused() -> None:
    with pytest.raises(RuntimeError, match="expected a prior where its gradient is needed"):
        torch.ops.dvae_kernels.categorical_kl_bwd.cpp(ROWS, X, None, 1, True)
