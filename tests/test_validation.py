"""Bad input: a clear error before any work, and nothing changed."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dvae_kernels import BackendUnavailable, _backend, gumbel_softmax, use_backend
from kit.discovery import OPINFOS
from kit.dtypes import FLOATS
from kit.layouts import META
from kit.opinfo import ErrorInputs

X = torch.zeros(2, 3)
KEY = torch.tensor([1, 2])

# (arguments, error, the whole message after "op: ")
Bad = tuple[dict[str, Any], type[Exception], str]


def bad_tensor(name: str, x: Tensor) -> dict[str, Bad]:
    return {
        f"{name} list": ({name: [0.0]}, TypeError, f"expected {name} to be a Tensor, got list"),
        f"{name} integer": ({name: x.long()}, TypeError, f"expected floating-point {name}, got int64"),
        f"{name} bool": ({name: x.bool()}, TypeError, f"expected floating-point {name}, got bool"),
        f"{name} complex": ({name: x.to(torch.complex64)}, TypeError, f"expected floating-point {name}, got complex64"),
        f"{name} sparse": (
            {name: x.to_sparse()}, TypeError, f"expected strided {name}, got layout torch.sparse_coo",
        ),
        f"{name} nested": (
            {name: torch.nested.nested_tensor([x.flatten()], layout=torch.jagged)}, TypeError,
            f"expected {name} to be a plain Tensor, got a nested one",
        ),
    }  # fmt: skip


def bad_temperatures(name: str, positive: bool) -> dict[str, Bad]:
    expected = f"expected finite {name} {'>' if positive else '>='} 0"
    cases: dict[str, Bad] = {
        f"{name} negative": ({name: -0.5}, ValueError, f"{expected}, got -0.5"),
        f"{name} nan": ({name: math.nan}, ValueError, f"{expected}, got nan"),
        f"{name} infinite": ({name: math.inf}, ValueError, f"{expected}, got inf"),
        f"{name} beyond floats": ({name: 10**400}, ValueError, f"{expected}, got {10**400}"),
        f"{name} text": ({name: "1"}, TypeError, f"expected {name} to be a float or a Tensor, got str"),
        f"{name} none": ({name: None}, TypeError, f"expected {name} to be a float or a Tensor, got NoneType"),
        f"{name} bool": ({name: True}, TypeError, f"expected {name} to be a float or a Tensor, got bool"),
        f"{name} complex": ({name: 1j}, TypeError, f"expected {name} to be a float or a Tensor, got complex"),
        f"{name} size": ({name: torch.ones(2)}, ValueError, f"expected {name} with one element, got shape (2,)"),
        f"{name} empty": ({name: torch.ones(0)}, ValueError, f"expected {name} with one element, got shape (0,)"),
        f"{name} dtype": ({name: torch.tensor(1)}, TypeError, f"expected floating-point {name}, got int64"),
        f"{name} device": ({name: torch.ones((), device=META)}, ValueError, f"expected {name} on cpu, got meta"),
        f"{name} sparse": (
            {name: torch.tensor([1.0]).to_sparse()}, TypeError, f"expected strided {name}, got layout torch.sparse_coo",
        ),
    }  # fmt: skip
    if positive:
        cases[f"{name} zero"] = ({name: 0.0}, ValueError, f"{expected}, got 0.0")
    return cases


# By the parameter that they are about.
COMMON: dict[str, dict[str, Bad]] = {
    "dim": {
        "dim high": ({"dim": 2}, ValueError, "expected dim in [-2, 1], got 2"),
        "dim low": ({"dim": -3}, ValueError, "expected dim in [-2, 1], got -3"),
        "dim float": ({"dim": 1.0}, TypeError, "expected dim to be an int, got float"),
        "dim bool": ({"dim": True}, TypeError, "expected dim to be an int, got bool"),
        "dim none": ({"dim": None}, TypeError, "expected dim to be an int, got NoneType"),
    },
    "hard": {"hard": ({"hard": 1}, TypeError, "expected hard to be a bool, got int")},
    "key": {
        "key type": ({"key": 3}, TypeError, "expected key to be a Tensor, got int"),
        "key dtype": ({"key": KEY.int()}, TypeError, "expected key of dtype int64, got int32"),
        "key shape": ({"key": KEY[:1]}, ValueError, "expected key of shape (2,), got (1,)"),
        "key rank": ({"key": KEY[None]}, ValueError, "expected key of shape (2,), got (1, 2)"),
        "key device": ({"key": KEY.to(META)}, ValueError, "expected key on cpu, got meta"),
        "key sparse": ({"key": KEY.to_sparse()}, TypeError, "expected strided key, got layout torch.sparse_coo"),
        "key and seed": (
            {"key": KEY, "seed": 1}, ValueError, "expected at most one of key, seed and generator, got key and seed",
        ),
        "all three": (
            {"key": KEY, "seed": 0, "generator": torch.Generator()}, ValueError,
            "expected at most one of key, seed and generator, got key and seed and generator",
        ),
    },
    "seed": {
        "seed float": ({"seed": 1.0}, TypeError, "expected seed to be an int, got float"),
        "seed bool": ({"seed": True}, TypeError, "expected seed to be an int, got bool"),
        "seed tensor": ({"seed": KEY}, TypeError, "expected seed to be an int, got Tensor"),
        "seed and generator": (
            {"seed": 0, "generator": torch.Generator()}, ValueError,
            "expected at most one of key, seed and generator, got seed and generator",
        ),
    },
    "generator": {
        "generator type": ({"generator": 1}, TypeError, "expected generator to be a torch.Generator, got int"),
    },
    "row_offset": {
        "row_offset negative": (
            {"row_offset": -1}, ValueError, "expected rows within [0, 2^32), got 2 from row_offset -1",
        ),
        "row_offset high": (
            {"row_offset": 2**32 - 1}, ValueError, "expected rows within [0, 2^32), got 2 from row_offset 4294967295",
        ),
        "row_offset float": ({"row_offset": 0.0}, TypeError, "expected row_offset to be an int, got float"),
    },
    "backend": {
        "backend": (
            {"backend": "opencl"}, ValueError, "unknown backend 'opencl', expected one of cpp, triton, cuda, reference",
        ),
        "backend type": (
            {"backend": 1}, ValueError, "unknown backend 1, expected one of cpp, triton, cuda, reference",
        ),
    },
}  # fmt: skip


def bad_calls(errors: ErrorInputs) -> dict[str, Bad]:
    parameters = inspect.signature(errors.function).parameters
    tensors = {name: x for name, x in errors.arguments.items() if isinstance(x, Tensor) and x.is_floating_point()}
    cases: dict[str, Bad] = {}
    for name, x in tensors.items():
        cases |= bad_tensor(name, x)
    for name in parameters:
        cases |= COMMON.get(name, {})
    for name in ("tau", "temperature"):
        if name in parameters:
            cases |= bad_temperatures(name, errors.positive_tau)
    if "generator" in parameters:
        elsewhere = {name: x.to(META) for name, x in tensors.items()} | {"generator": torch.Generator()}
        cases["generator elsewhere"] = (elsewhere, ValueError, "expected a generator on meta, got cpu")
    return cases | errors.special


CASES = [
    pytest.param(errors, *case, id=f"{errors.function.__name__} {name}")
    for info in OPINFOS
    for errors in info.errors
    for name, case in bad_calls(errors).items()
]


@pytest.mark.parametrize("errors, arguments, error, message", CASES)
def test_errors(errors: ErrorInputs, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    generator = arguments.get("generator")
    states = [torch.get_rng_state()]
    if isinstance(generator, torch.Generator):
        states.append(generator.get_state())
    hard = "hard" in inspect.signature(errors.function).parameters
    for options in ({"hard": False}, {"hard": True}) if hard else ({},):
        with pytest.raises(error) as caught:
            errors.function(**{**errors.arguments, **options, **arguments})
        assert str(caught.value) == f"{errors.function.__name__}: {message}"
        assert type(caught.value) is error
        assert torch.equal(torch.get_rng_state(), states[0]), "something was drawn"
        if len(states) > 1:
            assert torch.equal(generator.get_state(), states[1])


def test_the_valid_calls_are_valid() -> None:
    for info in OPINFOS:
        for errors in info.errors:
            errors.function(**errors.arguments)


def test_no_dtype_is_lost() -> None:
    """All other tests take their dtypes from the package, so a dtype that it forgot would be tested nowhere."""
    assert {torch.float32, torch.float64, torch.float16, torch.bfloat16} <= set(FLOATS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_meta_tensors_are_taken(dtype: torch.dtype) -> None:
    y = gumbel_softmax(X.to(META, dtype))
    assert (y.shape, y.dtype, y.device.type) == (X.shape, dtype, "meta")


def test_a_bad_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_forced", "CPP")
    with pytest.raises(ValueError, match="DVAE_KERNELS_BACKEND"):
        gumbel_softmax(X)


def test_raw_cpu_ops_check_what_they_read() -> None:
    """They are registered, so anyone may call them: no read past a buffer."""
    assert not _backend.why_not("cpp", "cpu")
    ops = torch.ops.dvae_kernels
    with pytest.raises(RuntimeError, match="grad of the sample's dtype"):
        ops.gumbel_softmax_bwd.cpp(X, X.double(), None, 1.0, 1, torch.float64)
    with pytest.raises(RuntimeError, match="floating-point"):
        ops.gumbel_softmax_fwd.cpp(X.long(), KEY, None, 1.0, 1, False, 0, torch.int64)
    with pytest.raises(RuntimeError, match="one shape"):
        ops.gumbel_softmax_bwd.cpp(X[:, :2], X, None, 1.0, 1, torch.float32)


def test_the_widest_row_range_is_accepted() -> None:
    assert gumbel_softmax(X, row_offset=2**32 - 2, seed=0).shape == X.shape


def test_an_absent_backend_says_why_every_other_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {("cpp", "cpu"): "no compiler", ("triton", "cpu"): "no interpreter", ("cuda", "cpu"): "no GPU"}
    monkeypatch.setattr(_backend, "_reasons", reasons)
    state = torch.get_rng_state()
    with pytest.raises(BackendUnavailable) as caught:
        gumbel_softmax(X, backend="cuda")
    assert str(caught.value).splitlines() == [
        "gumbel_softmax: backend 'cuda' is not available for cpu tensors",
        "  cpp: no compiler",
        "  triton: no interpreter",
        "  cuda: no GPU",
        "  reference: available",
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(gumbel_softmax(X, seed=1), gumbel_softmax(X, seed=1, backend="reference"))


def test_real_reasons_are_reported() -> None:
    """With nothing patched: on CPU tensors the CUDA backend can never run."""
    with pytest.raises(
        BackendUnavailable, match=r"(?s)cpp: .*triton: .*cuda: it runs CUDA tensors only.*reference: av"
    ):
        gumbel_softmax(X, backend="cuda")


def test_use_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_reasons", {("cuda", "cpu"): "no GPU", ("cpp", "cpu"): "", ("triton", "cpu"): "no"})
    assert _backend.resolve("op", None, "cpu") == "cpp"
    with use_backend("reference"):
        assert _backend.resolve("op", None, "cpu") == "reference"
        assert _backend.resolve("op", "cpp", "cpu") == "cpp", "the argument comes first"
        with use_backend(None):
            assert _backend.resolve("op", None, "cpu") == "cpp"
        with use_backend("cuda"), pytest.raises(BackendUnavailable, match="no GPU"):
            gumbel_softmax(X)
        assert _backend.resolve("op", None, "cpu") == "reference"
    assert _backend.resolve("op", None, "cpu") == "cpp"
    with pytest.raises(ValueError, match="use_backend: unknown backend 'x'"), use_backend("x"):
        pass
    assert _backend.resolve("op", None, "cpu") == "cpp"


def test_other_devices_take_the_reference() -> None:
    assert _backend.resolve("op", None, "meta") == "reference"


def test_eps_is_ignored_with_torchs_warning() -> None:
    with pytest.warns(UserWarning, match="`eps` is deprecated and has no effect"):
        y = gumbel_softmax(X, eps=1e-5, seed=0)
    assert torch.equal(y, gumbel_softmax(X, seed=0))
    with pytest.warns(UserWarning, match="`eps` parameter is deprecated and has no effect"):
        torch.nn.functional.gumbel_softmax(X, eps=1e-5)


def test_the_signature_starts_like_torchs() -> None:
    def positional(function: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    ours, theirs = positional(gumbel_softmax), positional(torch.nn.functional.gumbel_softmax)
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert [default for _, default in ours] == [default for _, default in theirs]
