"""What gumbel_softmax alone promises: its special values, its noise stream, its ties."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from dvae_kernels import _rng, gumbel_argmax, gumbel_softmax
from dvae_kernels._dtypes import compute_dtype
from kit.compare import TIE
from kit.dtypes import each_dtype, each_half, skip_in_interpreter
from kit.layouts import lay_out
from kit.oracle import noise_key
from kit.targets import INTERPRETED, Target

INF, NAN = math.inf, math.nan
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "gumbel_softmax.json").read_text())

soft_and_hard = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])


def sample(target: Target, logits: Tensor, tau: float | Tensor = 1.0, hard: bool = False, **options: Any) -> Tensor:
    key = options.pop("key", noise_key(0)).to(target.device)
    return gumbel_softmax(logits.to(target.device), tau, hard, key=key, backend=target.backend, **options)


def with_gradients(
    target: Target, logits: Tensor, tau: float | Tensor = 1.0, hard: bool = False, **options: Any
) -> tuple[Tensor, ...]:
    """(y, gradient to the logits[, gradient to tau]) for a fixed random cotangent, on the CPU."""
    leaves = [logits.detach().to(target.device).requires_grad_()]
    if isinstance(tau, Tensor):
        tau = tau.detach().to(target.device).requires_grad_()
        leaves.append(tau)
    y = sample(target, leaves[0], tau, hard, **options)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y)
    return tuple(x.cpu() for x in (y.detach(), *torch.autograd.grad(y, leaves, g)))


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).to(dtype)


# Special values


@soft_and_hard
@pytest.mark.parametrize("tau", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_tau_zero_is_the_hard_sample_without_gradient(target: Target, hard: bool, tau: float | Tensor) -> None:
    logits = random_logits(9, 37)
    logits[3, 5], logits[4, 6] = NAN, INF
    y, *grads = with_gradients(target, logits, tau, hard)
    torch.testing.assert_close(y, sample(target, logits, 1.0, True).cpu(), rtol=0, atol=0, equal_nan=True)
    for grad in grads:
        assert (grad == 0).all()


@soft_and_hard
@pytest.mark.parametrize("tau", [-1.0, NAN, INF, -INF])
def test_a_tensor_tau_that_is_no_temperature_gives_nan(target: Target, hard: bool, tau: float) -> None:
    for result in with_gradients(target, random_logits(3, 21), torch.tensor(tau), hard):
        assert result.isnan().all()


@soft_and_hard
@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["float", "tensor"])
@pytest.mark.parametrize("tau", [1e-40, 1e-38, 1e-30])
def test_tiny_tau_is_the_hard_sample(target: Target, hard: bool, tau: float, kind: Any) -> None:
    logits = random_logits(9, 37)
    y, dlogits, *dtau = with_gradients(target, logits, kind(tau), hard)
    assert torch.equal(y, sample(target, logits, 1.0, True).cpu())
    assert not dlogits.any()
    assert not any(grad.any() for grad in dtau)


@pytest.mark.parametrize("tau", [1.0, 0.5], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("k", [10, 100, 3000])
def test_the_largest_finite_logits_are_finite(target: Target, dtype: torch.dtype, k: int, tau: float) -> None:
    """Masks are often written as finfo.min; nothing may overflow on the way to a softmax."""
    skip_in_interpreter(target, dtype)
    huge = torch.finfo(dtype)
    logits = torch.zeros(4, k, dtype=dtype)
    logits[0], logits[1] = huge.min, 0.99 * huge.max
    logits[2, 3], logits[3, 1:] = huge.max, huge.min
    y, dlogits = with_gradients(target, logits, tau)
    assert y.isfinite().all() and dlogits.isfinite().all()
    torch.testing.assert_close(y.double().sum(-1), torch.ones(4, dtype=torch.float64), rtol=2e-2, atol=0)
    assert y[2, 3] == 1 and y[3, 0] == 1


@each_half
@pytest.mark.parametrize("k", [2, 10, 100])
def test_half_gradients_of_nearly_onehot_rows_survive(target: Target, dtype: torch.dtype, k: int) -> None:
    """The stored sample does not sum to one there; against float64, since the reference stores one as well."""
    skip_in_interpreter(target, dtype)
    logits = random_logits(50, k, dtype=dtype)
    logits[:, 1] += 9
    g = torch.randn(50, k, generator=torch.Generator().manual_seed(5)).to(dtype)
    leaf, exact = logits.to(target.device).requires_grad_(), logits.double().requires_grad_()
    (dlogits,) = torch.autograd.grad(sample(target, leaf), leaf, g.to(target.device))
    (oracle,) = torch.autograd.grad(sample(Target("reference", "cpu"), exact), exact, g.double())
    error = (dlogits.cpu().double() - oracle).abs().amax(-1)
    # the sample's rounding and the gradient's; absolutely, the mean's in float32 and what float16 cannot hold
    floor = 4 * torch.finfo(torch.float32).eps + (torch.finfo(dtype).smallest_normal if dtype == torch.float16 else 0)
    assert (error <= 4 * torch.finfo(dtype).eps * oracle.abs().amax(-1) + floor).all()


@pytest.mark.parametrize("tau", [1e39, 1e300], ids=str)
def test_a_huge_tau_is_uniform(target: Target, tau: float) -> None:
    torch.testing.assert_close(sample(target, random_logits(3, 50), tau).cpu(), torch.full((3, 50), 1 / 50))


@soft_and_hard
@each_dtype
@pytest.mark.parametrize("k", [5, 64, 150])
def test_masked_logits_get_exactly_nothing(target: Target, hard: bool, dtype: torch.dtype, k: int) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(6, k, dtype=dtype)
    mask = torch.rand(6, k, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:, 2] = False  # leaves every row something
    mask[4, 3:] = True
    tau = torch.tensor(0.5, dtype=compute_dtype(dtype))
    y, dlogits, dtau = with_gradients(target, logits.masked_fill(mask, -INF), tau, hard)
    assert not y[mask].any() and not dlogits[mask].any()
    # a finite logit that is far below all others is as good as a mask
    expected = with_gradients(target, logits.masked_fill(mask, -3e4), tau, hard)
    for result, other in zip((y, dlogits, dtau), expected):
        torch.testing.assert_close(result, other)


@soft_and_hard
@each_dtype
@pytest.mark.parametrize("k", [1, 5, 64, 150])
@pytest.mark.parametrize("tau", [0.5, 0.0, torch.tensor(0.5)], ids=["float", "zero", "tensor"])
def test_a_row_of_only_masks_is_zero(
    target: Target, hard: bool, dtype: torch.dtype, k: int, tau: float | Tensor
) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(4, k, dtype=dtype)
    y, dlogits, *dtau = with_gradients(target, logits.index_fill(0, torch.tensor([1]), -INF), tau, hard)
    whole, dwhole, *_ = with_gradients(target, logits, tau, hard)
    others = torch.tensor([0, 2, 3])
    assert not y[1].any() and not dlogits[1].any()
    assert torch.equal(y[others], whole[others]) and torch.equal(dlogits[others], dwhole[others])
    assert all(grad.isfinite() for grad in dtau)


@soft_and_hard
@each_dtype
@pytest.mark.parametrize("value", [NAN, INF], ids=str)
@pytest.mark.parametrize("k", [1, 5, 150])
def test_a_row_with_nan_or_infinity_is_nan(
    target: Target, hard: bool, dtype: torch.dtype, value: float, k: int
) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(5, k, dtype=dtype)
    broken = logits.clone()
    broken[1, k - 1] = value
    broken[3, 0], broken[3, 1:] = value, -INF
    for tau in (1.0, torch.tensor(0.5, dtype=compute_dtype(dtype)), 0.0):
        y, dlogits, *dtau = with_gradients(target, broken, tau, hard)
        whole, dwhole, *_ = with_gradients(target, logits, tau, hard)
        assert y[1].isnan().all() and y[3].isnan().all()
        assert tau == 0 or (dlogits[1].isnan().all() and dlogits[3, 0].isnan())
        for row in (0, 2, 4):
            assert torch.equal(y[row], whole[row]) and torch.equal(dlogits[row], dwhole[row])
        assert all(grad.isnan() for grad in dtau)


@soft_and_hard
def test_one_category_is_certain(target: Target, hard: bool) -> None:
    y, dlogits, dtau = with_gradients(target, random_logits(7, 1, scale=100), torch.tensor(0.3), hard)
    assert (y == 1).all() and not dlogits.any() and dtau == 0


@soft_and_hard
@pytest.mark.parametrize("shape, dim", [((0, 5), -1), ((0,), 0), ((3, 0), -1), ((2, 0, 3), 1), ((2, 3, 0), 1)])
def test_empty_input_gives_empty_output(target: Target, hard: bool, shape: tuple[int, ...], dim: int) -> None:
    y, dlogits = with_gradients(target, torch.zeros(shape), 0.5, hard, dim=dim)
    assert y.shape == dlogits.shape == shape
    tau = torch.tensor(0.5, device=target.device, requires_grad=True)
    assert sample(target, torch.zeros(shape), tau, hard, dim=dim).shape == shape


# Ties


@each_dtype
@pytest.mark.parametrize("k", [2, 7, 16, 33, 200, 5000])
def test_exact_ties_go_to_the_lowest_index(target: Target, dtype: torch.dtype, k: int) -> None:
    """Where one rounding step of the logits is more than the noise, l + G ties exactly."""
    skip_in_interpreter(target, dtype)
    if dtype == torch.float16:
        pytest.skip("float16 holds no number that swallows the noise")
    huge = 1e30
    index = sample(target, torch.full((5, k), huge, dtype=dtype), hard=True).argmax(-1)
    assert not index.any()
    logits = torch.zeros(5, k, dtype=dtype)
    tied = torch.tensor([[k // 2, k - 1], [0, k - 1], [k - 1, k - 1], [k // 3, k // 2], [k - 2, k - 1]])
    logits.scatter_(1, tied, huge)
    index = sample(target, logits, hard=True).argmax(-1).cpu()
    assert torch.equal(index, tied.amin(-1))
    columns = sample(target, logits.t().contiguous(), hard=True, dim=0).argmax(0).cpu()
    assert torch.equal(columns, tied.amin(-1))
    for layout, dim in ((logits, 1), (logits.t().contiguous(), 0)):
        assert torch.equal(index_of(target, layout, dim).cpu(), tied.amin(-1))


# The index


def index_of(target: Target, logits: Tensor, dim: int = -1, **options: Any) -> Tensor:
    return gumbel_argmax(logits.to(target.device), dim, key=noise_key(0).to(target.device), backend=target.backend,
                         **options)  # fmt: skip


@each_dtype
@pytest.mark.parametrize(
    "shape, dim", [((5, 33), 1), ((3, 1031), -1), ((2, 20011), 1), ((2, 37, 5, 7), 1), ((67, 6), 0)]
)
def test_the_index_is_that_of_the_hard_sample(
    target: Target, dtype: torch.dtype, shape: tuple[int, ...], dim: int
) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(*shape, dtype=dtype)
    index = index_of(target, logits, dim, row_offset=5)
    assert index.dtype == torch.int64 and index.is_contiguous()
    expected = sample(target, logits, hard=True, dim=dim, row_offset=5).argmax(dim)
    assert index.shape == expected.shape and torch.equal(index, expected)


@pytest.mark.parametrize("layout", ["offset", "stepped", "transposed", "rotated", "expanded_first"])
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_no_layout_changes_the_index(target: Target, layout: str, dim: int) -> None:
    logits = random_logits(3, 4, 9, 5)
    if layout == "expanded_first":
        logits = logits[:1].expand(3, 4, 9, 5)
    expected = index_of(target, logits.contiguous(), dim)
    assert torch.equal(index_of(target, lay_out(logits.to(target.device), layout), dim), expected)


@each_dtype
@pytest.mark.parametrize("k", [1, 5, 150, 5000])
def test_rows_without_a_category_have_negative_indices(target: Target, dtype: torch.dtype, k: int) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(6, k, dtype=dtype)
    logits[1], logits[2, k - 1], logits[4, 0] = -INF, NAN, INF
    for layout in (logits, logits.t().contiguous().t()):
        index = index_of(target, layout).cpu()
        assert index[1] == -1 and index[2] == -2 and index[4] == -2
        assert (index[[0, 3, 5]] >= 0).all() and (index < k).all()


def test_the_index_of_one_category_and_of_nothing(target: Target) -> None:
    for scalar in (torch.tensor(3.0), torch.tensor([3.0])):
        assert index_of(target, scalar, 0).shape == () and index_of(target, scalar, 0) == 0
    assert index_of(target, torch.zeros(0, 5)).shape == (0,) and index_of(target, torch.zeros(2, 0, 3), 2).shape == (
        2,
        0,
    )
    assert index_of(target, torch.zeros(0, 0), 1).shape == (0,)


def test_the_index_under_vmap_and_with_a_gradient(target: Target) -> None:
    logits = random_logits(3, 4, 9).to(target.device).requires_grad_()
    one_by_one = torch.stack([index_of(target, x) for x in logits])
    assert not one_by_one.requires_grad
    assert torch.equal(torch.vmap(lambda x: index_of(target, x))(logits), one_by_one)


def test_the_index_is_uniform_between_equal_categories(target: Target) -> None:
    if target.interpreted:
        pytest.skip("too many samples for the interpreter")
    counts = index_of(target, torch.zeros(100_000, 4)).bincount(minlength=4).cpu()
    assert ((counts - 25_000).abs() < 5 * (100_000 * 3 / 16) ** 0.5).all()


# The noise stream


@pytest.mark.parametrize("record", GOLDEN["records"], ids=lambda r: f"key={r['key']}")
@each_dtype
def test_golden_samples(target: Target, dtype: torch.dtype, record: dict[str, Any]) -> None:
    """Samples computed once, in exact arithmetic and without the package."""
    skip_in_interpreter(target, dtype)
    logits = torch.tensor(record["logits"], dtype=dtype)
    options = {"key": torch.tensor(record["key"]), "row_offset": record["row_offset"]}
    soft = sample(target, logits, record["tau"], **options).cpu().double()
    expected = torch.tensor(record["soft"], dtype=torch.float64)
    # y changes by at most y * 2 * |noise error| / tau
    noise_error = 1e-14 if dtype == torch.float64 else 2e-6
    tolerance = torch.finfo(dtype).eps + 2 * noise_error / record["tau"]
    torch.testing.assert_close(soft, expected, rtol=tolerance, atol=torch.finfo(dtype).tiny)
    hard = sample(target, logits, record["tau"], True, **options)
    assert hard.argmax(-1).tolist() == record["index"]


@pytest.mark.parametrize("row, col, word", [(10666192, 1, 114), (372860, 3, 170), (8459372, 3, 2**32 - 37)])
def test_both_tails_of_the_noise_reach_the_sample(target: Target, row: int, col: int, word: int) -> None:
    """Words below 265 are noise above 16.6, where 24-bit uniforms end; the largest words are noise below -2.9."""
    key = torch.tensor([0, 0])
    bits = _rng.row_bits(key, 1, 4, 1, row_offset=row)[0, :, 0]
    assert bits[col] == word
    noise = _rng.bits_to_gumbel(bits, torch.float64)
    assert noise[col] > 16.6 or noise[col] < -2.9
    rival = (col + 1) % 4
    for margin, winner in ((1e-4, col), (-1e-4, rival)):
        logits = torch.full((1, 4), -50.0)
        logits[0, rival] = 0
        logits[0, col] = noise[rival] - noise[col] + margin
        y = sample(target, logits, key=key, hard=True, row_offset=row)
        assert y.argmax() == winner


@soft_and_hard
def test_the_key_is_the_identity_of_the_noise(target: Target, hard: bool) -> None:
    logits = random_logits(4, 70)

    def draw(seed: int, offset: int) -> Tensor:
        return sample(target, logits, 1.0, hard, key=torch.tensor([seed, offset]))

    y = draw(5, 1)
    assert torch.equal(y, draw(5, 1))
    assert torch.equal(y, draw(5, 1 + 2**32)), "the offset counts modulo 2^32"
    for other in (draw(6, 1), draw(5, 2), draw(5 + 2**32, 1), draw(-5, 1), draw(5, 2**31 + 1)):
        assert not torch.equal(y, other)

    def seeded(seed: int) -> Tensor:
        return gumbel_softmax(logits.to(target.device), 1.0, hard, seed=seed, backend=target.backend)

    assert torch.equal(seeded(5), draw(5, 0)) and torch.equal(seeded(-5), draw(-5, 0))
    assert torch.equal(seeded(2**64 - 5), draw(-5, 0)) and torch.equal(seeded(5 + 2**64), draw(5, 0))


def test_generators(target: Target) -> None:
    logits = random_logits(4, 30).to(target.device)

    def draw(generator: torch.Generator | None = None) -> Tensor:
        return gumbel_softmax(logits, generator=generator, backend=target.backend)

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first) and not torch.equal(first, second)
    generator = torch.Generator(target.device).manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(draw(generator), first) and torch.equal(draw(generator), second)
    assert torch.equal(torch.get_rng_state(), state), "a given generator leaves the default one alone"


@soft_and_hard
@pytest.mark.parametrize("k", [7, 64, 300])
def test_row_shards_are_slices_of_the_whole(target: Target, hard: bool, k: int) -> None:
    logits = random_logits(23, k)
    tau = torch.tensor(0.5)
    whole = sample(target, logits, tau, hard, row_offset=11).cpu()
    bounds = [0, 1, 4, 12, 23]
    for a, b in itertools.pairwise(bounds):
        y = sample(target, logits[a:b], tau, hard, row_offset=11 + a).cpu()
        if target.backend == "reference":  # torch's own exp rounds by position
            torch.testing.assert_close(y, whole[a:b])
        else:
            assert torch.equal(y, whole[a:b])


@soft_and_hard
def test_batch_shards_around_dim_1(target: Target, hard: bool) -> None:
    logits = random_logits(5, 19, 3, 7)
    whole = sample(target, logits, hard=hard, dim=1)
    shards = [sample(target, part, hard=hard, dim=1, row_offset=i * 21) for i, part in enumerate(logits.split(1))]
    torch.testing.assert_close(torch.cat(shards), whole, rtol=1e-6, atol=1e-7)
    assert torch.equal(torch.cat(shards).argmax(1), whole.argmax(1))


@soft_and_hard
def test_rows_far_down_the_stream(target: Target, hard: bool) -> None:
    logits = random_logits(3, 40)
    oracle = gumbel_softmax(logits.double(), key=noise_key(0), hard=hard, row_offset=2**32 - 3, backend="reference")
    y = sample(target, logits, hard=hard, row_offset=2**32 - 3).cpu()
    torch.testing.assert_close(y.double(), oracle, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(y, sample(target, logits, hard=hard, row_offset=2**31 - 3).cpu())


# Layout


@st.composite
def views(draw: st.DrawFn) -> tuple[Tensor, int, str, str]:
    """Logits with repeated values where they are to be expanded, the dimension, and two layouts."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    dim = draw(st.integers(0, len(sizes) - 1))
    sizes[dim] = draw(st.sampled_from([1, 2, 3, 5, 8, 17, 40]))
    names = ["contiguous", "guarded", "offset", "stepped", "transposed", "rotated"]
    layout = draw(st.sampled_from([*names, "expanded_first", "expanded_last"]))
    grad_layout = draw(st.sampled_from([*names, "expanded_all"]))
    logits = random_logits(*sizes)
    if layout == "expanded_first":
        logits = logits[:1].expand(sizes)
    if layout == "expanded_last":
        logits = logits[..., :1].expand(sizes)
    dim -= draw(st.sampled_from([0, len(sizes)]))
    return logits, dim, layout, grad_layout


@soft_and_hard
@hypothesis.settings(
    max_examples=10 if INTERPRETED else 40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)  # fmt: skip
@hypothesis.given(views())
def test_no_layout_changes_the_sample(target: Target, hard: bool, view: tuple[Tensor, int, str, str]) -> None:
    values, dim, layout, grad_layout = view
    results = []
    for name, grad_name in (("contiguous", "contiguous"), (layout, grad_layout)):
        logits = lay_out(values, name).to(target.device).requires_grad_()
        y = sample(target, logits, 0.8, hard, dim=dim)
        g = random_logits(*values.shape)
        if grad_layout == "expanded_all":
            g = g.flatten()[0].expand(g.shape)
        (dlogits,) = torch.autograd.grad(y, logits, lay_out(g, grad_name).to(target.device))
        results.append((y.detach(), dlogits))
    (y, dlogits), (other, dother) = results
    assert torch.equal(y.argmax(dim), other.argmax(dim))
    # the noise agrees to 2e-6 between code paths; then sums of few terms in another order
    torch.testing.assert_close(other, y, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dother, dlogits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize(
    "shape, order",
    [((4, 5, 6), (0, 1, 2)), ((4, 5, 6), (2, 0, 1)), ((2, 8, 3, 5), (0, 2, 3, 1)), ((2, 3, 4, 5), (3, 1, 0, 2))],
)
def test_the_output_has_the_strides_of_empty_like(
    target: Target, hard: bool, shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    if target.backend == "reference":
        pytest.skip("plain torch chooses its own strides")
    logits = torch.empty([shape[d] for d in order]).permute([order.index(d) for d in range(len(shape))]).normal_()
    assert logits.shape == shape
    assert sample(target, logits, hard=hard, dim=1).stride() == logits.stride()


# Autocast


@soft_and_hard
@each_half
def test_autocast_gives_float32_from_half_logits(target: Target, hard: bool, dtype: torch.dtype) -> None:
    skip_in_interpreter(target, dtype)
    logits = random_logits(5, 40, dtype=dtype).to(target.device).requires_grad_()
    with torch.autocast(target.device, dtype=dtype):
        y = sample(target, logits, 0.5, hard)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.sum(-1), torch.ones_like(y[:, 0]), rtol=1e-6, atol=0)
    torch.testing.assert_close(y, sample(target, logits.float(), 0.5, hard))
    y.square().sum().backward()
    assert logits.grad is not None and logits.grad.dtype == dtype
    with torch.autocast(target.device, dtype=dtype):
        assert sample(target, logits.double(), 0.5, hard).dtype == torch.float64


def test_close_rivals_are_told_apart_to_the_promised_margin(target: Target) -> None:
    """Where two perturbed logits are TIE apart in float64, every backend takes the better one."""
    key = noise_key(4)
    rows, k = 2000, 8
    noise = _rng.gumbel_like(torch.zeros(rows, k, dtype=torch.float64), key, 1)
    generator = torch.Generator().manual_seed(0)
    first, step = torch.randint(0, k, (rows,), generator=generator), torch.randint(1, k, (rows,), generator=generator)
    second = (first + step) % k
    row = torch.arange(rows)
    logits = torch.full((rows, k), -40.0)
    logits[row, second] = 0
    logits[row, first] = (noise[row, second] - noise[row, first]).float()
    gap = logits.double()[row, first] + noise[row, first] - noise[row, second]
    logits[row, first] += (torch.where(row % 2 == 0, 1.5 * TIE, -1.5 * TIE) - gap).float()
    winner = (logits.double() + noise).argmax(-1)
    assert torch.equal(sample(target, logits, hard=True, key=key).argmax(-1).cpu(), winner)
