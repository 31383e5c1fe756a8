"""CPU times of two builds of the package, interleaved in one run: is the new one as fast as the old one?

    python bench/compare_builds.py OLD NEW [--cases PREFIX ...] [--rounds 60] [--restarts 3] [--save [FILE]]

OLD and NEW are checkouts, each with its compiled module built in place. Either build runs in a worker process of its
own, and the two take turns at short blocks of calls of the same case; the first of a round is the second of the next.
The addresses that a process gets make some percent of a small call's time, so the workers are started anew several
times and their rounds put together.

A line for each case: the medians of both, their ratio old / new (above 1: the new build is faster), and the quartiles
of the rounds' own ratios, which are the spread. The exit status is 1 where a ratio is below 0.97 and its upper quartile
too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timing import CpuTimer, Function, reserve

RESULTS = Path(__file__).parent / "results"
WORST = 0.97
SHAPES = ((4096, 512), (64, 32))
Call = Callable[..., Any]  # gives a tensor, or those of several that are differentiated
Ratios = dict[str, list[tuple[float, float]]]  # by case: seconds of both builds in each round


# What a worker does.


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calls(package: Any, rows: int, columns: int) -> dict[str, tuple[Call, list[Tensor]]]:
    """By name: a call of a public op, and its differentiable arguments, none where it has no gradient."""
    x, other, unit = (normal(rows, columns, seed=seed) for seed in range(3))
    unit, simplex, key, tau = unit.sigmoid(), unit.softmax(-1), torch.tensor([1, 2]), torch.tensor(0.7)
    codes, width = (1024, 64) if columns > 64 else (columns, columns)
    row, code, book = normal(rows, width), normal(codes, width, seed=1), normal(columns, 64, seed=2)
    indices = torch.arange(rows) * 7 % codes
    counts, sums = package.code_statistics(row, indices, codes)
    averages = code.clone(), counts.clone(), sums.clone()
    sample, noise = package.gumbel_softmax, {"key": key}
    return {
        "gumbel_softmax": (lambda x: sample(x, 0.7, **noise), [x]),
        "gumbel_softmax, learnt tau": (lambda x, tau: sample(x, tau, **noise), [x, tau]),
        "gumbel_softmax, hard": (lambda x: sample(x, 0.7, True, **noise), [x]),
        "gumbel_softmax, columns": (lambda x: sample(x, 0.7, dim=0, **noise), [x]),
        "gumbel_softmax, straight_through": (
            lambda x: sample(x, 0.7, True, estimator="straight_through", **noise), [x],
        ),
        "gumbel_softmax, reinmax": (lambda x: sample(x, 1.5, True, estimator="reinmax", **noise), [x]),
        "gumbel_softmax, gumbel_rao": (
            lambda x: sample(x, 0.7, True, estimator="gumbel_rao", draws=4, **noise), [x],
        ),
        "gumbel_argmax": (lambda: package.gumbel_argmax(x, **noise), []),
        "gumbel_softmax_log_prob": (lambda y, x: package.gumbel_softmax_log_prob(y, x, 0.7), [simplex, x]),
        "gumbel_softmax_embed": (lambda x, c: package.gumbel_softmax_embed(x, c, 0.7, **noise)[0], [x, book]),
        "gumbel_softmax_embed_kl": (lambda x, c: embed_kl(package, x, c, **noise), [x, book]),
        "categorical_kl": (lambda x: package.categorical_kl(x), [x]),
        "categorical_kl, prior": (lambda x, prior: package.categorical_kl(x, prior=prior), [x, other]),
        "binary_concrete": (lambda x: package.binary_concrete(x, 0.7, **noise), [x]),
        "binary_concrete_log_prob": (lambda y, x: package.binary_concrete_log_prob(y, x, 0.7), [unit, x]),
        "smoothing_transform, power": (lambda x: package.smoothing_transform(x, 2.0, **noise), [x]),
        "smoothing_transform, spike_exponential": (
            lambda x: package.smoothing_transform(x, 2.0, "spike_exponential", **noise), [x],
        ),
        "smoothing_log_prob": (lambda zeta, x: package.smoothing_log_prob(zeta, x, 2.0), [unit, x]),
        "nearest_code": (lambda: package.nearest_code(row, code), []),
        "nearest_code, cosine": (lambda: package.nearest_code(row, code, metric="cosine"), []),
        "nearest_code_scores": (lambda: code_scores(package, row, code), []),
        "vector_quantize": (
            lambda x, c: package.vector_quantize(x, c, codebook_weight=1.0)[::2], [row, code],
        ),
        "vector_quantize, rotation": (
            lambda x: package.vector_quantize(x, code, gradient="rotation")[::2], [row],
        ),
        "code_statistics": (lambda: package.code_statistics(row, indices, codes), []),
        "ema_update_": (lambda: package.ema_update_(*averages, counts, sums), []),
    }  # fmt: skip


def embed_kl(package: Any, logits: Tensor, codebook: Tensor, **noise: Any) -> tuple[Tensor, Tensor]:
    """(embedding, KL): a function of its own, which was once a flag."""
    if hasattr(package, "gumbel_softmax_embed_kl"):
        embedding, _, kl = package.gumbel_softmax_embed_kl(logits, codebook, 0.7, **noise)
    else:
        embedding, _, kl = package.gumbel_softmax_embed(logits, codebook, 0.7, return_kl=True, **noise)
    return embedding, kl


def code_scores(package: Any, x: Tensor, codebook: Tensor) -> Any:
    """With all that comes along: a function of its own, which was once two flags."""
    if hasattr(package, "nearest_code_scores"):
        return package.nearest_code_scores(x, codebook)
    return package.nearest_code(x, codebook, return_score=True, return_rescored=True)


def functions(package: Any) -> dict[str, Function]:
    """By case: what is timed."""
    result: dict[str, Function] = {}
    for rows, columns in SHAPES:
        for name, (call, inputs) in calls(package, rows, columns).items():
            result[f"{name} {rows}x{columns} forward"] = lambda call=call, inputs=inputs: call(*inputs)
            if inputs:
                result[f"{name} {rows}x{columns} with backward"] = with_backward(call, inputs)
    return result


def with_backward(call: Call, inputs: list[Tensor]) -> Function:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]

    def outputs() -> list[Tensor]:
        result = call(*leaves)
        return [result] if isinstance(result, Tensor) else list(result)

    grads = [normal(*y.shape, seed=9) for y in outputs()]
    return lambda: torch.autograd.grad(outputs(), leaves, grads)


def work() -> None:
    """Answers lines of standard input: a case and a number of calls (0: as many as fill a block) with the number and
    the seconds of one call."""
    import dvae_kernels

    cases, timer = functions(dvae_kernels), CpuTimer()
    kept = reserve(torch.empty(SHAPES[0]))
    print(json.dumps(list(cases)), flush=True)
    for line in sys.stdin:
        name, repeats = json.loads(line)
        if not repeats:
            cases[name]()
        repeats = repeats or timer.repeats(cases[name])
        print(json.dumps((repeats, timer.time(cases[name], repeats))), flush=True)
    del kept


# What the parent does.


class Worker:
    def __init__(self, checkout: Path, threads: int) -> None:
        # Threads that wait would take the cores from the other worker.
        env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--work"]
        self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.cases: list[str] = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"a worker ended with status {self.process.wait()}")
        return json.loads(line)

    def run(self, case: str, repeats: int = 0) -> tuple[int, float]:
        assert self.process.stdin is not None
        print(json.dumps((case, repeats)), file=self.process.stdin, flush=True)
        count, seconds = self.answer()
        return count, seconds

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(old: Worker, new: Worker, prefixes: list[str], rounds: int, times: Ratios) -> None:
    """Adds `rounds` rounds of each case to `times`."""
    for case in old.cases:
        if prefixes and not case.startswith(tuple(prefixes)):
            continue
        repeats = max(old.run(case)[0], new.run(case)[0])
        for i in range(rounds):
            pair = {}
            for worker in (old, new) if i % 2 else (new, old):
                pair[worker] = worker.run(case, repeats)[1]
            times.setdefault(case, []).append((pair[old], pair[new]))


class Summary(NamedTuple):
    old: float
    new: float
    ratio: float
    first: float
    third: float

    @property
    def slower(self) -> bool:
        return self.ratio < WORST and self.third < WORST


def summary(pairs: list[tuple[float, float]]) -> Summary:
    old, new = (median(pair[i] for pair in pairs) for i in range(2))
    first, _, third = quantiles((one / other for one, other in pairs), n=4, method="inclusive")
    return Summary(old, new, old / new, first, third)


def commit(checkout: Path) -> str:
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    return head + "+changes" * bool(changes)


def save(path: Path | None, checkouts: tuple[Path, Path], threads: int, summaries: dict[str, Summary]) -> None:
    now, device = datetime.now(timezone.utc), processor()
    name = f"{now:%Y%m%d-%H%M%S}-{'-'.join(device.split())}-builds.json"
    path = path or RESULTS / name
    cases = [{"case": case, **result._asdict()} for case, result in summaries.items()]
    header = {"date": now.isoformat(timespec="seconds"), "device": device, "threads": threads}
    commits = {"torch": torch.__version__, "old": commit(checkouts[0]), "new": commit(checkouts[1])}
    path.write_text(json.dumps({**header, **commits, "cases": cases}, indent=1) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--cases", nargs="+", default=[], metavar="PREFIX", help="cases whose names start so")
    parser.add_argument("--rounds", type=int, default=60, help="of each case, over all restarts")
    parser.add_argument("--restarts", type=int, default=3, help="how many times the workers are started")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--save", nargs="?", const=None, default=False, type=Path, help="JSON (default: bench/results/)"
    )
    args = parser.parse_args()
    checkouts = args.old.resolve(), args.new.resolve()
    times: Ratios = {}
    for i in range(args.restarts):
        pair = [Worker(checkouts[j], args.threads) for j in ((0, 1) if i % 2 else (1, 0))]
        old, new = pair if i % 2 else pair[::-1]
        measure(old, new, args.cases, max(2, args.rounds // args.restarts), times)
        for worker in pair:
            worker.end()
    if not times:
        raise SystemExit("no case has such a name")
    summaries = {case: summary(pairs) for case, pairs in times.items()}
    width = max(map(len, summaries))
    print(f"{'':{width}}  {'old':>9}  {'new':>9}  old/new  quartiles")
    for case, result in summaries.items():
        spread = f"{result.first:.3f}-{result.third:.3f}{'  slower' * result.slower}"
        print(f"{case:{width}}  {result.old * 1e6:6.0f} us  {result.new * 1e6:6.0f} us  {result.ratio:7.3f}  {spread}")
    if args.save is not False:
        save(args.save, checkouts, args.threads, summaries)
    return 1 if any(result.slower for result in summaries.values()) else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        sys.exit(main())
