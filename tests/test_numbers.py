"""Python numbers as users pass them: annealed under torch.compile, and NumPy's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import dvae_kernels as dk

# (x [6, 8], a number in (0, 1)) -> a tensor
Call = Callable[[Tensor, float], Tensor]
CODES = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
CALLS: dict[str, Call] = {
    "gumbel_softmax": lambda x, s: dk.gumbel_softmax(x * s, s, seed=1),
    "gumbel_softmax hard": lambda x, s: dk.gumbel_softmax(x * s, s, hard=True, seed=1),
    "straight_through": lambda x, s: dk.gumbel_softmax(x * s, s, hard=True, estimator="straight_through", seed=1),
    "reinmax": lambda x, s: dk.gumbel_softmax(x * s, s + 1, hard=True, estimator="reinmax", seed=1),
    "gumbel_rao": lambda x, s: dk.gumbel_softmax(x * s, s, hard=True, estimator="gumbel_rao", seed=1),
    "gumbel_softmax_embed": lambda x, s: dk.gumbel_softmax_embed(x * s, CODES.T, s, seed=1).embedding,
    "gumbel_softmax_log_prob": lambda x, s: dk.gumbel_softmax_log_prob(x.softmax(-1), x * s, s),
    "binary_concrete": lambda x, s: dk.binary_concrete(x * s, s, seed=1),
    "binary_concrete_log_prob": lambda x, s: dk.binary_concrete_log_prob(x.sigmoid(), x * s, s),
    "smoothing_transform": lambda x, s: dk.smoothing_transform(x * s, s + 1, seed=1),
    "smoothing_log_prob": lambda x, s: dk.smoothing_log_prob(x.sigmoid(), x * s, s + 1),
    "vector_quantize": lambda x, s: dk.vector_quantize(x * s, CODES, temperature=s, seed=1).quantized,
    "vector_quantize weights": lambda x, s: dk.vector_quantize(x * s, CODES, commitment_weight=s).loss,
}
NUMBERS = [0.9 - 0.07 * step for step in range(11)]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(grad: bool) -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(grad)


def value_and_gradient(call: Call, number: float, grad: bool) -> tuple[Tensor, ...]:
    x = inputs(grad)
    y = call(x, number)
    if not y.requires_grad:
        return (y,)
    return y, *torch.autograd.grad((y * torch.arange(y.numel()).reshape(y.shape).sin()).sum(), x)


@pytest.mark.parametrize(("name", "grad"), [*((name, True) for name in CALLS), ("gumbel_softmax", False)])
def test_a_number_that_is_annealed_compiles_twice(name: str, grad: bool) -> None:
    """Once for the first value, once for all others, as torch's own functions do; fullgraph gives up at the ninth."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(CALLS[name], backend=counter, fullgraph=True)
    for number in NUMBERS:
        ours, right = (value_and_gradient(call, number, grad) for call in (compiled, CALLS[name]))
        for a, b in zip(ours, right, strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 2


@pytest.mark.slow
def test_a_number_in_arithmetic_does_not_go_stale(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's cache took the graph of another value for a graph with a number that an op took."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    call = CALLS["gumbel_softmax"]
    compiled = torch.compile(call)
    for number in NUMBERS[:5]:
        torch.testing.assert_close(compiled(inputs(False), number), call(inputs(False), number))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_numpy_floats_are_numbers(name: str, kind: type[np.floating]) -> None:
    assert torch.equal(CALLS[name](inputs(False), kind(0.5)), CALLS[name](inputs(False), 0.5))


def test_numpy_ints_are_numbers() -> None:
    x = inputs(False)
    one, two = np.int64(1), np.int32(2)
    right = dk.gumbel_softmax(x, 2, True, dim=1, seed=2, row_offset=1, estimator="gumbel_rao", draws=2)
    ours = dk.gumbel_softmax(x, two, True, dim=one, seed=two, row_offset=one, estimator="gumbel_rao", draws=two)
    assert torch.equal(ours, right)
    assert torch.equal(dk.binary_concrete(x, index_offset=one, seed=1), dk.binary_concrete(x, index_offset=1, seed=1))
    indices = dk.nearest_code(x, CODES)
    assert torch.equal(dk.code_statistics(x, indices, np.int64(5)).counts, dk.code_statistics(x, indices, 5).counts)
    assert float(dk.nn.Schedule(np.float32(1), np.float32(0.5), np.int64(4), hold=np.int64(1))) == 1
    with pytest.raises(TypeError, match="expected hard to be a bool, got int"):
        dk.gumbel_softmax(x, hard=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected dim to be an int, got float64"):
        dk.gumbel_softmax(x, dim=np.float64(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [1e-300, 5e-324])
def test_numbers_below_float32_stay_above_zero(number: float) -> None:
    """Any number > 0 is a beta, and a temperature of a density."""
    x = torch.tensor([0.3, 0.7])
    assert dk.smoothing_transform(x, number, seed=1).isfinite().all()
    assert dk.smoothing_log_prob(x, x, number).isfinite().all()
    assert not dk.gumbel_softmax_log_prob(x, torch.zeros(2), number).isnan().any()
    assert not dk.binary_concrete_log_prob(x, torch.zeros(2), number).isnan().any()
