"""nearest_code against faiss, scikit-learn and plain torch; before anything is timed, every index is compared with the
float64 definition, which ours must give for all rows."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import REPLAY, our_backends
from dvae_kernels import nearest_code, nearest_code_scores
from peers import Search, by_rows

GAUSSIAN = [(k, d) for k in (1024, 8192) for d in (4, 8, 16, 32, 64, 256)]
CASES = [("gaussian", *size) for size in GAUSSIAN] + [("clustered", k, d) for k in (1024, 8192) for d in (8, 64)]
CASES += [("offset", 8192, 64)]
COMPILED = (64,)  # numbers of columns at which plain torch is compiled too


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    quick = metafunc.config.getoption("--quick")
    metafunc.parametrize("kind, k, d", CASES[:1] + CASES[-1:] if quick else CASES, ids=str)


@pytest.mark.benchmark(timer=REPLAY)
def test_nearest_code(
    kind: str, k: int, d: int, device: torch.device, quick: bool, compare: Callable[..., None]
) -> None:
    n, k = (70, 33) if quick else (16384 if device.type == "cpu" else 1 << 20, k)
    torch.manual_seed(0)
    codes = torch.randn(k, d, device=device)
    x = torch.randn(n, d, device=device)
    if kind == "clustered":
        x = codes[torch.randint(k, (n,), device=device)] + 0.1 * x
    elif kind == "offset":
        x, codes = 50 + 0.01 * x, 50 + 0.01 * codes
    ours = {f"ours ({name})": functools.partial(nearest_code, x, codes, backend=name) for name in our_backends(device)}
    if "ours (cpp)" in ours and torch.ops.dvae_kernels.cpu_capability() == "avx512_vnni":
        ours["ours, float32 only"] = without_integers(ours["ours (cpp)"])
    peers = {"addmm, argmax by rows": by_rows(x, codes)}
    if n * k <= 1 << 31:  # 8 GiB
        peers["cdist, argmin"] = lambda: torch.cdist(x, codes).argmin(1)
    if d in COMPILED and not quick:
        peers["addmm, argmax, compiled"] = torch.compile(by_rows(x, codes), dynamic=False)
    if device.type == "cpu":
        peers = {"faiss": by_faiss(x, codes), "scikit-learn": by_sklearn(x, codes), **peers}
    truth = definition(x, codes)
    for label, search in ours.items():
        assert torch.equal(search(), truth), f"{label} is wrong"
    backend = our_backends(device)[0]
    again = nearest_code_scores(x, codes, backend=backend).rescored
    wrong = {label: int((search() != truth).sum()) for label, search in peers.items()}
    misses = ", ".join(f"{label} {count}" for label, count in wrong.items() if count) or "none"
    note = f"again {again:.1%} of rows; wrong rows of peers: {misses}"
    compare(f"nearest_code {kind} {n}x{k}x{d}", note, {**ours, **peers})


def without_integers(search: Search) -> Search:
    """As on a CPU without integer dot products."""
    cpu_capability = torch.ops.dvae_kernels.cpu_capability

    def lesser() -> Tensor:
        cpu_capability("avx512")
        try:
            return search()
        finally:
            cpu_capability("avx512_vnni")

    return lesser


def by_faiss(x: Tensor, codes: Tensor) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(codes.shape[1])
    index.add(codes.numpy())
    rows = x.numpy()
    return lambda: torch.from_numpy(index.search(rows, 1)[1][:, 0])


def by_sklearn(x: Tensor, codes: Tensor) -> Search:
    from sklearn.metrics import pairwise_distances_argmin

    rows, others = x.numpy(), codes.numpy()
    return lambda: torch.from_numpy(pairwise_distances_argmin(rows, others))


def definition(x: Tensor, codes: Tensor) -> Tensor:
    """Indices by the definition: a float64 product leaves the candidates, which are added up in order."""
    x, codes = x.double(), codes.double()
    half = torch.zeros_like(codes[:, 0])
    for column in codes.unbind(1):
        half = torch.addcmul(half, column, column)
    half /= 2
    indices = []
    for rows in x.split(max(1, (1 << 25) // len(codes))):
        scores = torch.addmm(-half, rows, codes.t())
        size = rows.norm(dim=1) * (2 * half.max()).sqrt() + half.max()
        best = scores.amax(1) - 2 * 2.0**-52 * (x.shape[1] + 8) * size
        row, code = (scores >= best[:, None]).nonzero(as_tuple=True)
        dot = torch.zeros_like(row, dtype=torch.float64)
        for a, b in zip(rows[row].unbind(1), codes[code].unbind(1)):
            dot = torch.addcmul(dot, a, b)
        score = dot - half[code]
        top = torch.full_like(best, -torch.inf).scatter_reduce(0, row, score, "amax")
        code = code.where(score == top[row], len(codes))
        indices.append(torch.full_like(row[: len(rows)], len(codes)).scatter_reduce(0, row, code, "amin"))
    return torch.cat(indices)
