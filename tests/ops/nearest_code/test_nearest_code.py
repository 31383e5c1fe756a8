"""nearest_code against its definition in numpy: no wrong index and no wrong score, on data made to mislead it."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from dvae_kernels import _backend, nearest_code, nearest_code_scores
from dvae_kernels.ops.nearest_code import METRICS, reference
from dvae_kernels.ops.nearest_code.schemas import NEAREST_CODE
from kit.dtypes import HALVES, UNRELIABLE
from kit.layouts import LAYOUTS, lay_out, storage_bytes
from kit.targets import CAPABILITIES, TARGETS, Target, params, ready
from ops.nearest_code.cases import DATA, data, definition, expected, scores

# (N, K, D), with fewer than 2^15 scores where there are many columns: torch does not call its threads for those
SHAPES = [(67, 777, 1), (131, 1030, 3), (131, 1030, 8), (41, 777, 16), (35, 517, 48), (41, 777, 64), (35, 260, 256),
          (13, 131, 2048)]  # fmt: skip
SEARCHES = [(shape, metric) for shape in SHAPES for metric in METRICS]
FEW = list(zip(itertools.cycle([(18, 131, 3), (9, 70, 18)]), METRICS))  # for the interpreter
MIXED = [*((half, half) for half in HALVES), (torch.bfloat16, torch.float32), (torch.float32, torch.float16)]


@pytest.fixture(params=params((Target("cpp", "cpu", "avx512_vnni"), *TARGETS)))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Every backend that can run, cpp once per instruction set, that of integer dot products among them."""
    yield from ready(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is small is slower with more, where other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def search(target: Target, x: Tensor, codes: Tensor, metric: str, precision: str = "exact") -> tuple[Tensor, Tensor]:
    indices, score, _ = nearest_code_scores(
        x.to(target.device), codes.to(target.device), metric=metric, precision=precision, backend=target.backend
    )
    assert indices.dtype == torch.int64 and score.dtype == (x.dtype if x.dtype == torch.float64 else torch.float32)
    return indices.cpu(), score.cpu()


def check(
    target: Target, x: Tensor, codes: Tensor, metric: str, what: str, known: tuple[Tensor, Tensor] | None = None
) -> None:
    """Every index, and every score rounded once."""
    index, best = known or definition(x, codes, metric)
    indices, score = search(target, x, codes, metric)
    wrong = (indices != index).nonzero().flatten().tolist()
    assert not wrong, f"{what}: {len(wrong)} of {len(x)} rows, {wrong[:5]}: {indices[wrong[:5]]}, {index[wrong[:5]]}"
    same = (score == best.float()) | (score.isnan() & best.isnan())
    assert same.all(), f"{what}: score {score[~same][:3]}, not {best[~same][:3]}"
    if not target.interpreted:  # where no score is asked for, a backend may stop before it knows one
        alone = nearest_code(x.to(target.device), codes.to(target.device), metric=metric, backend=target.backend)
        assert torch.equal(alone.cpu(), index), f"{what}: without its score"


@pytest.mark.parametrize("kind", DATA)
def test_no_index_is_wrong(target: Target, kind: str) -> None:
    for shape, metric in FEW if target.interpreted else SEARCHES:
        what = f"{shape}, {metric}"
        check(target, *data(kind, *shape), metric, what, expected(kind, *shape, metric=metric))


@pytest.mark.parametrize("kind", ["gaussian", "duplicated", "near tie", "offset", "lattice"])
def test_no_index_is_wrong_in_half_precision(target: Target, kind: str) -> None:
    """x and codes as they are: the definition takes their float64 values."""
    for dtypes, metric in itertools.product(MIXED, METRICS):
        if target.interpreted and any(dtype in UNRELIABLE for dtype in dtypes):
            continue
        shapes = [(9, 70, 16)] if target.interpreted else [(35, 260, 3), (35, 260, 16), (35, 260, 64), (20, 131, 256)]
        for shape in shapes:
            args = (kind, *shape, *dtypes)
            check(target, *data(*args), metric, f"{shape}, {dtypes}", expected(*args, metric=metric))


@pytest.mark.parametrize("kind", DATA)
def test_float64_in_any_order(target: Target, kind: str) -> None:
    """The chosen score is the best but for rounding."""
    searches = [(shape, metric) for shape in ((67, 777, 3), (20, 131, 64)) for metric in METRICS]
    for shape, metric in FEW[1:2] if target.interpreted else searches:
        x, codes = (values.double() * (1 + 1e-12) for values in data(kind, *shape))
        indices, score = search(target, x, codes, metric)
        own, best, size = of_chosen(x, codes, metric, indices)
        assert (own >= best - 4e-16 * (shape[2] + 8) * size).all()
        assert ((score - own).abs() <= 4e-16 * (shape[2] + 8) * size).all()


def test_the_reference_joins_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_BLOCK", 100)
    for kind in ("duplicated", "lattice"):
        check(Target("reference", "cpu"), *data(kind, 41, 777, 16), "l2", kind)


def of_chosen(x: Tensor, codes: Tensor, metric: str, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By the definition: the scores of the chosen codes, the best ones, and the scale of both's rounding."""
    every = scores(x, codes, metric)
    norms = codes.double().norm(dim=1)
    sizes = x.double().norm(dim=1)[:, None] * (torch.ones_like(norms) if metric == "cosine" else norms)
    sizes = sizes + (norms.square() if metric == "l2" else 0)
    best = every.argmax(1, keepdim=True)
    index = indices[:, None]
    size = sizes.gather(1, index) + sizes.gather(1, best)
    return every.gather(1, index)[:, 0], every.gather(1, best)[:, 0], size[:, 0]


def test_special_values(target: Target) -> None:
    """Codes that are not finite are never chosen; rows that are not finite get index 0 and score NaN."""
    x, codes = (values.clone() for values in data("gaussian", 20, 70, 5))
    x[3, 4], x[5, 0], x[7] = math.nan, math.inf, -math.inf
    codes[::2] = x[0] * 1e10  # would win
    codes[::4, 2], codes[2::4, 4] = math.nan, -math.inf
    codes[6, 4] = math.inf
    x[9], codes[11] = 0, 0  # in cosine, a code of zeros scores 0 and a row of zeros ties
    for metric in METRICS:
        check(target, x, codes, metric, f"{metric}")
        check(target, x, codes[1:2], metric, "K = 1")
        check(target, x, codes[11:12].expand(3, -1), metric, "only codes of zeros")
        check(target, x, codes[:1], metric, "no finite code")
        check(target, x, codes[::2], metric, "no finite codes")
        check(target, x[:1], codes, metric, "N = 1")
        check(target, -codes[13:14], codes[13:14] * torch.tensor([[1.0], [0]]), metric, "worse than zeros")
        x64, codes64 = x.double().to(target.device), codes.double().to(target.device)
        indices = nearest_code(x64, codes64, metric=metric, backend=target.backend)
        assert torch.equal(indices.cpu(), definition(x, codes, metric)[0])


def near(base: Tensor, count: int, ulps: int) -> Tensor:
    """Rows that are at most so many units in the last place from one row."""
    generator = torch.Generator().manual_seed(count)
    steps = torch.randint(-ulps, ulps + 1, (count, base.shape[1]), generator=generator).int()
    return (base.expand(count, -1).contiguous().view(torch.int32) + steps).view(torch.float32)


@pytest.mark.parametrize(("d", "k"), [(15, 513), (62, 2), (255, 47)], ids=str)
def test_codes_that_differ_in_their_last_places(target: Target, d: int, k: int) -> None:
    """The definition's own rounding decides here, and belongs in the bound that certifies an index."""
    n = 60 if target.interpreted else 600
    base = torch.randn(1, d, generator=torch.Generator().manual_seed(d))
    codes = near(base, min(k, 60) if target.interpreted else k, 1)
    noise = 1e-7 * torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    for what, x in {"on the codes": near(base, n, 2), "beside them": base + noise}.items():
        index, _ = definition(x, codes, "l2")
        ours = nearest_code(x.to(target.device), codes.to(target.device), backend=target.backend)
        assert torch.equal(ours.cpu(), index), what


@pytest.mark.filterwarnings("ignore:overflow encountered")  # in the interpreter's numpy
def test_what_overflows_in_float64(target: Target) -> None:
    """A score is not chosen and hides no finite one, and a row's square hides no code of zeros."""
    x, codes = torch.zeros(1, 2, dtype=torch.float64), torch.full((40, 2), math.nan, dtype=torch.float64)
    x[0, 0], codes[[1, 3, 5, 9]] = 1e200, torch.tensor([1e150, 0], dtype=torch.float64)
    for code in (1e-10, 0.0):
        codes[1, 0] = code
        for where in (codes, codes[:3]):
            ours = nearest_code_scores(x.to(target.device), where.to(target.device), backend=target.backend)[:2]
            alone = nearest_code(x.to(target.device), where.to(target.device), backend=target.backend)
            assert [*map(float, ours), float(alone)] == [1, code * 1e200, 1]
    x[0, 0], codes[3, 0], codes[1, 0] = 1e-10, 1e160, 1  # a code whose square overflows, though its score does not
    for metric in METRICS:
        index = nearest_code(x.to(target.device), codes[:4].to(target.device), metric=metric, backend=target.backend)
        assert index == 1, metric


GUARDED = """
import ctypes, mmap, sys, torch
from dvae_kernels import _extension, nearest_code_scores
from dvae_kernels.ops.nearest_code import METRICS

def guarded(shape):
    "Ones that end where a page without access begins."
    size = torch.Size(shape).numel() * 8
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + pages), mmap.PAGESIZE, 0) == 0
    return torch.frombuffer(memory, dtype=torch.float64, offset=pages - size, count=size // 8).view(shape).fill_(1)

assert not _extension.load("_C")
best, wanted = (torch.ops.dvae_kernels.cpu_capability(name) for name in (None, sys.argv[1]))
if wanted != sys.argv[1]:
    sys.exit(f"this CPU has {best} at most")
for columns in (3, 4096):
    for num_codes in (1, 31, 70):
        for metric in METRICS:
            x = torch.full((9, columns), 1e155, dtype=torch.float64)
            x[::2] = 3
            indices, scores, _ = nearest_code_scores(
                x, guarded((num_codes, columns)), metric=metric, backend="cpp"
            )
            assert (indices == 0).all() and scores.isfinite().all(), (columns, num_codes, metric, indices, scores)
"""


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nothing_beyond_the_codebook_is_read(capability: str) -> None:
    """Rows whose squares overflow leave no bound on the error, so that every lane of the last tile may be the best."""
    if reason := _backend.why_not("cpp", "cpu"):
        pytest.skip(reason)
    run = subprocess.run([sys.executable, "-c", GUARDED, capability], capture_output=True, text=True)
    if "at most" in run.stderr:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, f"exit status {run.returncode}\n{run.stderr}"


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 2, 5)], ids=str)
def test_no_rows(target: Target, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, device=target.device)
    codes = x.new_ones((2, 4, 5) if shape == (0, 2, 5) else (4, 5))
    indices, score, rescored = nearest_code_scores(x, codes, backend=target.backend)
    assert indices.shape == score.shape == shape[:-1]
    assert indices.dtype == torch.int64 and score.dtype == torch.float32
    assert rescored == 0 and rescored.dtype == torch.float64
    assert torch.equal(nearest_code(x, codes, backend=target.backend), indices)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "expanded" not in name and name != "channels_last"])
def test_heads_and_layouts(target: Target, layout: str) -> None:
    """[B, L, H, D] by [H, K, D]: every head by itself; nothing around the inputs is read or written."""
    d = 5 if target.interpreted else 8 if layout == "offset" else 21
    x, codes = data("lattice", 2 * 3 * 3, 3 * 43, d)
    x, codes = x.reshape(2, 3, 3, d), codes.reshape(3, 43, d)
    ours = [lay_out(values.to(target.device), layout) for values in (x, codes)]
    before = [storage_bytes(values) for values in ours]
    indices, score, _ = nearest_code_scores(*ours, backend=target.backend)
    assert indices.shape == score.shape == (2, 3, 3)
    for h in range(3):
        index, best = definition(x[:, :, h].reshape(-1, d), codes[h], "l2")
        assert torch.equal(indices[:, :, h].cpu().flatten(), index)
        assert torch.equal(score[:, :, h].cpu().flatten(), best.float())
    assert all(map(torch.equal, map(storage_bytes, ours), before)), "the inputs or their surroundings changed"


@pytest.mark.parametrize("heads", [None, 3])
def test_the_dimension_of_the_columns(backend: Target, heads: int | None) -> None:
    """Images [B, D, H, W], where D may be as long as W."""
    lead = () if heads is None else (heads,)
    x = torch.randn(2, 5, *lead, 5, device=backend.device)
    codes = torch.randn(*lead, 7, 5, device=backend.device)
    right = nearest_code_scores(x, codes, backend=backend.backend)
    for dim in range(-x.dim(), x.dim()):
        moved = x.movedim(-1, dim)
        ours = nearest_code_scores(moved, codes, dim=dim, backend=backend.backend)
        assert torch.equal(ours.indices, right.indices) and torch.equal(ours.scores, right.scores)
        assert torch.equal(nearest_code(moved, codes, dim=dim, backend=backend.backend), right.indices)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lower_precision_errs_within_its_rounding(target: Target, precision: str) -> None:
    for shape, metric in SEARCHES if target.device == "cuda" else FEW:  # the CPU is exact
        for kind in ("gaussian",) if target.interpreted else ("gaussian", "near tie"):
            x, codes = data(kind, *shape)
            indices, score = search(target, x, codes, metric, precision)
            own, best, size = of_chosen(x, codes, metric, indices)
            error = size * (2.0**-21 * (shape[2] + 8) if precision == "fp32" else 2.0**-6)
            assert (own >= best - error).all(), f"{kind} {shape}, {metric}: {((best - own) / size).max()}"
            assert ((score - best).abs() <= error).all()


@pytest.mark.parametrize("kind", ["gaussian", "duplicated"])
def test_thread_count_changes_nothing(kind: str) -> None:
    target = Target("cpp", "cpu")
    if reason := target.why_not():
        pytest.skip(f"{target}: {reason}")
    x, codes = data(kind, 3001, 1030, 24)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(nearest_code_scores(x, codes, backend="cpp"))
    for indices, score, rescored in results[1:]:
        assert torch.equal(indices, results[0][0]) and torch.equal(score, results[0][1])
        assert rescored == results[0][2]
    assert torch.equal(results[0][0], definition(x, codes, "l2")[0])


def test_the_share_that_was_rescored(target: Target) -> None:
    """Near its code a row has one candidate block; where every code is there twice, far apart, always two."""
    if target.backend == "reference":
        pytest.skip("nothing is scored twice")
    n, k = (8, 256) if target.interpreted else (256, 2048)
    x, codes = (values.to(target.device) for values in data("clustered", n, k, 8 if target.interpreted else 32))
    near = nearest_code_scores(x, codes, backend=target.backend).rescored
    twice = nearest_code_scores(x, codes.repeat(2, 1), backend=target.backend).rescored
    assert near.dtype == torch.float64 and near.dim() == 0
    assert near <= 0.02 and twice == 1
    shares = []  # of the pairs of row and block
    for every in (codes, codes.repeat(2, 1)):
        _, _, (_, blocks, pairs) = NEAREST_CODE[target.backend](x[None], every[None], "l2", "exact", True)
        shares.append(blocks / pairs)
    assert 0 < shares[0] <= 1 and 0.9 <= shares[1] / shares[0] <= 1.1


def test_compiled_is_eager(kernel: Target) -> None:
    """As a whole graph, one for all sizes; x may need a gradient, and none of the results has one."""
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def run(x: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
        indices, score, rescored = nearest_code_scores(x * 0.5, codes, backend=kernel.backend)
        return indices + 1, score, rescored, nearest_code(x, codes, backend=kernel.backend)

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=count)
    for n, k, d in ((9, 70, 3), (6, 33, 5)):
        x, codes = (values.to(kernel.device).requires_grad_() for values in data("gaussian", n, k, d))
        for ours, eager in zip(compiled(x, codes), run(x, codes)):
            assert torch.equal(ours, eager) and ours.stride() == eager.stride()
            assert not ours.requires_grad and not eager.requires_grad
    assert graphs == 1
    torch._dynamo.reset()


def test_vmap(backend: Target) -> None:
    x, codes = (values.to(backend.device).reshape(3, -1, 4) for values in data("gaussian", 15, 30, 4))

    def run(x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        return nearest_code_scores(x, codes, backend=backend.backend)[:2]

    for ours, looped in zip(torch.vmap(run)(x, codes), zip(*map(run, x, codes))):
        assert torch.equal(ours, torch.stack(looped))
    gradient = torch.func.grad(lambda a: run(a, codes[0])[1].sum())(x[0])
    assert not gradient.any(), "a score has no gradient"


def test_sizes_beyond_32_bits(kernel: Target) -> None:
    with FakeTensorMode():
        x, codes = torch.empty(2**33, 2, 4, device=kernel.device), torch.empty(2, 5, 4, device=kernel.device)
        assert nearest_code(x, codes, backend=kernel.backend).shape == (2**33, 2)
