"""Options, the machine line and the table of `pytest bench`; see timing.py for how times are taken.

pytest-benchmark's own table and its --benchmark-* options (save, compare, json) hold our times; the table that is
printed last sets them beside the peers of the same run.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import dvae_kernels
import timing

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dvae_kernels")
    group.addoption("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    group.addoption("--quick", action="store_true", help="tiny shapes, few rounds, nothing compiled: does it run?")
    group.addoption("--seconds", type=float, default=4.0, help="for the rounds of one case (default 4)")
    group.addoption(
        "--save-results", nargs="?", const="", metavar="FILE", help="write JSON (default: to bench/results/)"
    )


# (rows, categories). On CPU, LARGE outputs are fresh pages at every call, the others memory that is used again. ODD
# sizes are to take as long per element as the even ones beside them.
LARGE, REUSED, SMALL = [(4096, 8192)], [(256, 8192), (1024, 512)], [(64, 32)]
ODD = [(257, 8191), (1021, 509)]
QUICK = [(8, 32), (3, 70)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The shapes of the run; a module may have a LARGE, a REUSED or an ODD of its own, or sizes of another kind."""
    if "shape" not in metafunc.fixturenames:
        return
    large, reused, odd = (getattr(metafunc.module, name, globals()[name]) for name in ("LARGE", "REUSED", "ODD"))
    if metafunc.config.getoption("--quick"):
        shapes = QUICK
    elif metafunc.config.getoption("--device") == "cpu":
        shapes = large + reused + odd + SMALL
    else:
        shapes = large + SMALL
    metafunc.parametrize("shape", shapes, ids=lambda s: f"{s[0]}x{s[1]}")


def our_backends(device: torch.device) -> list[str]:
    """The backends with kernels that can run, the one that is chosen by itself first; else the reference."""
    return [backend for backend in ("cpp", "triton", "cuda") if can_run(backend, device)] or ["reference"]


def backends_with_raw_ops(device: torch.device) -> list[str]:
    """our_backends, for a case that calls raw ops, of which the reference has none."""
    backends = our_backends(device)
    if backends == ["reference"]:
        pytest.skip("no backend with kernels can run")
    return backends


def can_run(backend: str, device: torch.device) -> bool:
    try:
        dvae_kernels.gumbel_argmax(torch.zeros(1, 2, device=device), backend=backend)
    except dvae_kernels.BackendUnavailable:
        return False
    return True


@dataclass
class Case:
    """What was measured for one operation and shape: Series, or why there is none, by contender; ours comes first."""

    name: str
    note: str
    ours: str
    series: dict[str, timing.Series | str]


@dataclass
class Replay:
    """A clock that gives recorded durations to pytest-benchmark: it times one function, and ours are interleaved."""

    durations: list[float] = field(default_factory=list)
    now: float = 0.0
    running: bool = False

    def __call__(self) -> float:
        if self.running:
            self.now += self.durations.pop(0)
        self.running = not self.running
        return self.now


REPLAY = Replay()
CASES = pytest.StashKey[list[Case]]()
TARGET = pytest.StashKey["Path | None"]()


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--save-results")
    if path == "":
        device = re.sub(r"\W+", "-", machine(torch.device(config.getoption("--device")))["device"])
        path = RESULTS / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d-%H%M%S}-{device}.json"
    config.stash[TARGET] = path and Path(path)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def compare(
    request: pytest.FixtureRequest, benchmark: Any, device: torch.device, quick: bool
) -> Iterator[Callable[[str, str, dict[str, timing.Function]], None]]:
    """compare(name, note, functions): time all functions, of which the first is ours. A peer that fails is noted."""

    def measure(name: str, note: str, functions: dict[str, timing.Function]) -> None:
        ours = next(iter(functions))
        working, broken = dict(functions), {}
        for label in list(functions)[1:]:
            try:
                functions[label]()
            except Exception as error:  # a peer's failure is a result, not ours to raise
                broken[label] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
                del working[label]
        budget, most = (0.1, 3) if quick else (request.config.getoption("--seconds"), 200)
        measured = timing.interleave(working, device, budget=budget, most=most)
        case = Case(name, note, ours, {label: measured.get(label) or broken[label] for label in functions})
        cases = request.config.stash.setdefault(CASES, [])
        cases.append(case)
        if target := request.config.stash[TARGET]:  # after each, so that a run that is cut short keeps what it has
            save(target, machine(device), cases)

        REPLAY.durations = list(measured[ours].seconds)
        benchmark.extra_info["peers"] = {label: s.median for label, s in measured.items() if label != ours}
        benchmark.pedantic(lambda: None, rounds=len(measured[ours].seconds))

    yield measure
    torch.compiler.reset()


Sampler = Callable[..., torch.Tensor]


@pytest.fixture
def contest(
    request: pytest.FixtureRequest,
    compare: Callable[..., None],
    shape: tuple[int, int],
    device: torch.device,
    quick: bool,
) -> Callable[..., None]:
    """contest(name, ours, peers, *inputs, eager=peers, backward=False): ours(backend), a function of the inputs,
    against peers, eager and compiled; those of `eager` are not compiled. `backward` times the gradient too."""

    def run(
        name: str,
        ours: Callable[[str], Sampler],
        peers: dict[str, Sampler],
        *inputs: torch.Tensor,
        eager: dict[str, Sampler] | None = None,
        backward: bool = False,
    ) -> None:
        samplers = {f"ours ({backend})": ours(backend) for backend in our_backends(device)}
        for label, peer in peers.items():
            samplers[label] = peer
            if not quick:
                samplers[f"{label}, compiled"] = torch.compile(peer, dynamic=False)
        samplers |= eager or {}
        leaves = [x.clone().requires_grad_(backward) for x in inputs]
        output = next(iter(samplers.values()))(*leaves)
        grad = torch.randn_like(output) if backward else None

        def call(sampler: Sampler) -> timing.Function:
            if not backward:
                return lambda: sampler(*leaves)
            return lambda: torch.autograd.grad(sampler(*leaves), leaves, grad)

        reused = device.type == "cpu" and shape not in getattr(request.module, "LARGE", LARGE)
        kept = timing.reserve(inputs[0]) if reused else None
        compare(
            f"{name} {shape[0]}x{shape[1]}",
            "reused memory" if reused else "",
            {k: call(s) for k, s in samplers.items()},
        )
        del kept

    return run


def machine(device: torch.device) -> dict[str, str]:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else ""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent
    )
    return {
        "device": gpu or (names[0] if names else platform.machine()),
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "dvae_kernels": dvae_kernels.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    cases = config.stash.get(CASES, [])
    if not cases:
        return
    facts = machine(torch.device(config.getoption("--device")))
    terminalreporter.section("ours against peers")
    for line in table(cases):
        terminalreporter.line(line)
    terminalreporter.line("")
    terminalreporter.line(", ".join(f"{name} {value}" for name, value in facts.items()))
    if target := config.stash[TARGET]:
        terminalreporter.line(f"saved {target}")


def table(cases: list[Case]) -> Iterator[str]:
    yield "median milliseconds ± interquartile range of interleaved calls; (in brackets: that time / ours)"
    failures = []
    for labels in dict.fromkeys(tuple(case.series) for case in cases):  # one block for each set of contenders
        rows = [["", *labels]]
        for case in (c for c in cases if tuple(c.series) == labels):
            ours = case.series[case.ours]
            row = [f"{case.name} {case.note}".strip()]
            for label, series in case.series.items():
                if isinstance(series, str) or isinstance(ours, str):
                    failures.append(f"{case.name}, {label}: {series}")
                    row.append("-")
                    continue
                ratio = "" if label == case.ours else f" ({series.median / ours.median:.2f}x)"
                row.append(f"{series.median * 1e3:.4g} ± {series.iqr * 1e3:.2g}{ratio}")
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        yield ""
        for row in rows:
            yield "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
    yield from failures


def save(target: Path, facts: dict[str, str], cases: list[Case]) -> None:
    """Write the run as one JSON file, whole or not at all."""
    rows = [
        {
            "case": case.name,
            "note": case.note,
            "ours": case.ours,
            "seconds": {
                label: series
                if isinstance(series, str)
                else {"median": series.median, "iqr": series.iqr, "rounds": len(series.seconds)}
                for label, series in case.series.items()
            },
        }
        for case in cases
    ]
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".tmp")
    scratch.write_text(json.dumps({"date": now, **facts, "cases": rows}, indent=1) + "\n")
    scratch.replace(target)
