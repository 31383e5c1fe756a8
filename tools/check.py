"""`make test`: every check, each in its own process; then what ran nowhere and why, and the counts.

`make check` (--quick) is for daily work: lint, types, the core of the tests (see tests/kit/selection.py) and the ops'
own, on the best instruction set of this CPU. `make check OP=nearest_code` (--op) takes all tests of one op instead.

All parts run even where one fails. Logs go to out/test/<part>.log.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "out" / "test"
OUTCOMES = LOGS / "outcomes.jsonl"
PYTEST_OPTIONS = ("-q", "-p", "outcomes", "--durations=5")
PYTEST = (sys.executable, "-m", "pytest", *PYTEST_OPTIONS)
# Two parts share the cores: threads that wait would take them from the other part, five times the time for small ops.
QUIET = {"OMP_WAIT_POLICY": "passive"}
TESTS_FAILED = 1  # pytest's exit status, with every failure in OUTCOMES
SHOWN = 30_000  # characters of a failed part's log


@dataclass(frozen=True)
class Part:
    name: str
    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


INTERPRETED = {"TRITON_INTERPRET": "1"}  # it has to be chosen before Python starts
CPU = "cpu and not interpret and not aot"
LINT = (
    Part("mypy", (sys.executable, "-m", "mypy")),
    Part("ruff check", (sys.executable, "-m", "ruff", "check", ".")),
    Part("ruff format", (sys.executable, "-m", "ruff", "format", "--check", ".")),
)
# The longest first, since two run at a time; last what uses two processes itself.
EVERYTHING = (
    Part("interpret", (*PYTEST, "-m", "interpret", "tests"), INTERPRETED),
    Part("cpu", (*PYTEST, "-m", "not interpret and not aot", "tests")),
    Part("gpu script, dry", (sys.executable, "tools/gpu.py", "--dry", "--out", "out/gpu-dry")),
    Part("aot", (*PYTEST, "-m", "aot", "tests")),
    *LINT,
)
# The tests of the ops' own folders are all in it, but for those of the CUDA kernels, which have to be compiled.
QUICK = (
    Part("core", (*PYTEST, "--best-simd", "-m", f"core and {CPU}", "tests")),
    Part("ops", (*PYTEST, "--best-simd", "-m", CPU, "-k", "not test_shim", "tests/ops")),
    *LINT,
)


def of_op(name: str) -> tuple[Part, ...]:
    generic = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests").glob("test_*.py"))
    chosen = ("--op", name, *generic, f"tests/ops/{name}")
    return (
        Part(f"{name} interpreted", (*PYTEST, "-m", "interpret", *chosen), INTERPRETED),
        Part(name, (*PYTEST, "-m", CPU, *chosen)),
        *LINT,
    )


def run(part: Part) -> int:
    log = LOGS / f"{part.name.replace(' ', '-').replace(',', '')}.log"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")])
    env = {**os.environ, "PYTHONPATH": paths, "DVAE_KERNELS_OUTCOMES": str(OUTCOMES), **QUIET, **part.env}
    started = time.monotonic()
    with log.open("wb") as file:
        status = subprocess.run(part.command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT).returncode
    seconds = time.monotonic() - started
    output = log.read_text(errors="replace")
    last = output.rstrip().rpartition("\n")[2]
    # one print, so that two parts do not mix
    print(f"{'failed' if status else 'ok':6} {part.name:16} {seconds:5.0f} s  {last}", flush=True)
    if status:
        if len(output) > SHOWN:
            output = f"{output[: SHOWN // 2]}\n[...]\n{output[-SHOWN // 2 :]}"
        print(f"--- {part.name}: {log.relative_to(ROOT)}\n{output}\n---", flush=True)
    return status


@dataclass
class Outcomes:
    """Over all processes that wrote to one file: the outcome by test, and why those were skipped that ran nowhere."""

    by_test: dict[str, str]
    reasons: dict[str, str]

    @staticmethod
    def read(file: Path) -> Outcomes:
        rank = {"skipped": 0, "passed": 1, "failed": 2}
        outcomes: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            test, outcome = entry["test"], entry["outcome"]
            if test not in outcomes or rank[outcome] > rank[outcomes[test]]:
                outcomes[test] = outcome
            reasons.setdefault(test, entry["reason"])
        # a module that one process skips whole has a name of its own beside its tests
        ran = {test.partition("::")[0] for test, outcome in outcomes.items() if outcome != "skipped"}
        outcomes = {test: outcome for test, outcome in outcomes.items() if not (outcome == "skipped" and test in ran)}
        return Outcomes(outcomes, {test: reasons[test] for test, outcome in outcomes.items() if outcome == "skipped"})

    def __str__(self) -> str:
        counts = (
            f"{sum(outcome == kind for outcome in self.by_test.values())} {kind}"
            for kind in ("passed", "failed", "skipped")
        )
        return ", ".join(counts)


def print_skipped(reasons: dict[str, str]) -> None:
    by_reason: dict[str, dict[str, int]] = {}
    for test, reason in reasons.items():
        function = test.partition("[")[0]
        counts = by_reason.setdefault(reason, {})
        counts[function] = counts.get(function, 0) + 1
    print("\nSkipped, and why:" if by_reason else "\nNothing was skipped.")
    for reason, counts in sorted(by_reason.items()):
        print(f"  {reason}")
        for function, count in sorted(counts.items()):
            print(f"    {function}" + (f" x{count}" if count > 1 else ""))


def main() -> int:
    parser = argparse.ArgumentParser(description="everything, or with an option lint, types and a part of the tests")
    parser.add_argument("--quick", action="store_true", help="the core of the tests")
    parser.add_argument("--op", help="the tests of one op, by the name of its folder")
    options = parser.parse_args()
    if options.op and not (ROOT / "dvae_kernels" / "ops" / options.op).is_dir():
        parser.error(f"dvae_kernels/ops/{options.op} is no folder")
    parts = of_op(options.op) if options.op else QUICK if options.quick else EVERYTHING
    LOGS.mkdir(parents=True, exist_ok=True)
    OUTCOMES.write_text("")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        statuses = list(pool.map(run, parts))
    outcomes = Outcomes.read(OUTCOMES)
    for part, status in zip(parts, statuses):
        if part.command[: len(PYTEST)] != PYTEST:
            outcomes.by_test[part.name] = "failed" if status else "passed"
        elif status not in (0, TESTS_FAILED):
            outcomes.by_test[part.name] = "failed"  # it died, or found no test
    if parts is EVERYTHING:
        print_skipped(outcomes.reasons)
    print(f"\n{outcomes}")
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main())
