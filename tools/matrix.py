"""`make matrix`: one wheel, built with the oldest torch, under every torch and triton that users are likely to have.

Every version has a virtual environment of its own in build/matrix/, made once: several GB each where torch is to be had
as a CUDA build alone. There the core of the tests runs on the CPU and in Triton's interpreter, and the Triton kernels
are compiled ahead of time. A run of all versions writes its table into docs/support.md; `tools/matrix.py 2.14.1` runs
one and writes nothing. Logs go to out/matrix/.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

from check import PYTEST_OPTIONS, QUIET, Outcomes

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "matrix"
LOGS = ROOT / "out" / "matrix"
PAGE = ROOT / "docs" / "support.md"
MARKS = ("<!-- written by make matrix -->\n", "<!-- end -->\n")
TEST_PACKAGES = ("pytest", "hypothesis", "mpmath", "numpy", "scipy")
SETUPTOOLS = "setuptools>=77,<82"  # which builds wheels itself, and which torch 2.11 takes
SOURCE = HOME / "source"  # a copy, so that the checkout may change meanwhile and its own build is left alone


@dataclass(frozen=True)
class Version:
    torch: str
    triton: str

    @property
    def environment(self) -> Path:
        return HOME / f"torch-{self.torch}"

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")

    def __str__(self) -> str:
        return f"torch {self.torch}, triton {self.triton}"


# The oldest first: it builds the wheel. Each torch with the triton that it was released with, or for the pinned torch a
# later one that it takes.
VERSIONS = (
    Version("2.11.0", "3.6.0"),
    Version("2.13.0", "3.7.1"),
    Version("2.14.1", "3.8.0"),
    Version("2.15.0", "3.9.0"),
)


@dataclass(frozen=True)
class Part:
    name: str
    selection: tuple[str, ...]  # arguments of pytest
    env: dict[str, str] = field(default_factory=dict)


TESTS = (
    Part("CPU", ("-m", "core and not interpret and not aot and not gpu")),
    Part("interpreter", ("-m", "core and interpret"), {"TRITON_INTERPRET": "1"}),
)
AHEAD = Part("ahead of time", ("-m", "aot", "-k", "not nvcc"))  # in two processes; `make test` does the pinned version
PARTS = (*TESTS, AHEAD)

# Run in an environment: what it is, and whether the wheel's module loads there.
DESCRIBE = """
import hashlib, json, pathlib, platform, torch, triton, dvae_kernels
from dvae_kernels import _extension
folder = pathlib.Path(dvae_kernels.__file__).parent
(binary,) = folder.glob("_C.*.so")
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__,
    "why_not": _extension.load("_C"), "binary": hashlib.sha256(binary.read_bytes()).hexdigest(), "folder": str(folder),
}))
"""


@dataclass
class Row:
    version: Version
    why_not: str = ""  # nothing could run
    description: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcomes] = field(default_factory=dict)  # by part

    @property
    def failed(self) -> bool:
        return any("failed" in outcomes.by_test.values() for outcomes in self.outcomes.values())


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=HOME).stdout


def pinned() -> dict[str, str]:
    """The requirement of every package in requirements/dev.txt that fits this Python."""
    lines = (ROOT / "requirements" / "dev.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {r.name: f"{r.name}{r.specifier}" for r in requirements if r.marker is None or r.marker.evaluate()}


def prepare(version: Version) -> str:
    """Make the environment where it is missing; why it cannot be made, or an empty string."""
    wanted = f"{version.torch} {version.triton}"
    asked = "import importlib.metadata as m; print(m.version('torch').partition('+')[0], m.version('triton'))"
    if Path(version.python).exists():
        found = subprocess.run([version.python, "-c", asked], capture_output=True, text=True)
        if found.stdout.strip() == wanted:
            return ""
    print(f"{version}: making {version.environment.relative_to(ROOT)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(version.environment)], check=True)
    packages = [f"torch=={version.torch}", f"triton=={version.triton}", SETUPTOOLS,
                *(pinned()[name] for name in TEST_PACKAGES)]  # fmt: skip
    command = [version.python, "-m", "pip", "install", "-q", "--no-cache-dir", *packages]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return ""
    lines = [line.strip() for line in result.stderr.splitlines()]
    reasons = [line for line in lines if line.startswith("ERROR") or "(constraint)" in line]
    return "; ".join(reasons) or f"pip ended with {result.returncode}"


def copy_sources() -> None:
    """All that git knows; what was built there before stays."""
    tracked = {line.split("/")[0] for line in output_of("git", "ls-files", "--full-name", str(ROOT)).splitlines()}
    for name in sorted(tracked):
        if (ROOT / name).is_dir():
            shutil.rmtree(SOURCE / name, ignore_errors=True)
            unwanted = shutil.ignore_patterns("*.so", "__pycache__", "_build_info.json")
            shutil.copytree(ROOT / name, SOURCE / name, ignore=unwanted)
        else:
            SOURCE.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, SOURCE / name)


def build(version: Version) -> Path:
    for old in (SOURCE / "build").glob("*lib*"):
        shutil.rmtree(old)
    wheels = HOME / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    env = {**os.environ, "DVAE_KERNELS_BUILD_CPP": "1", "DVAE_KERNELS_BUILD_CUDA": "0"}
    command = [version.python, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(wheels), "."]
    with (LOGS / "build.log").open("wb") as log:
        if subprocess.run(command, cwd=SOURCE, env=env, stdout=log, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"the wheel could not be built: see {log.name}")
    (wheel,) = wheels.glob("*.whl")
    return wheel


def test(version: Version, part: Part) -> Outcomes:
    """`part` against the installed wheel: neither pytest nor what the tests start has the sources on its path."""
    name = f"{version.torch} {part.name}".replace(" ", "-")
    results = LOGS / f"{name}.jsonl"
    results.unlink(missing_ok=True)
    results.touch()
    env = {**os.environ, **QUIET, **part.env, "PYTHONPATH": str(SOURCE / "tests" / "plugins"),
           "PYTHONSAFEPATH": "1", "DVAE_KERNELS_OUTCOMES": str(results)}  # fmt: skip
    command = [str(version.environment / "bin" / "pytest"), *PYTEST_OPTIONS, *part.selection, "tests"]
    started = time.monotonic()
    with (LOGS / f"{name}.log").open("wb") as log:
        status = subprocess.run(command, cwd=SOURCE, env=env, stdout=log, stderr=subprocess.STDOUT).returncode
    outcomes = Outcomes.read(results)
    if status > 1:
        outcomes.by_test[f"pytest ended with {status}"] = "failed"
    print(f"{version}, {part.name}: {outcomes} in {time.monotonic() - started:.0f} s", flush=True)
    return outcomes


def install(version: Version, wheel: Path) -> Row:
    command = [version.python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run(command, check=True)
    description = json.loads(output_of(version.python, "-c", DESCRIBE))
    return Row(version, description["why_not"], description)


def run_tests(row: Row) -> None:
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda part: test(row.version, part), TESTS)
        row.outcomes.update(zip((part.name for part in TESTS), outcomes))


def compile_ahead(row: Row) -> None:
    if f"triton=={row.version.triton}" != pinned()["triton"]:
        row.outcomes[AHEAD.name] = test(row.version, AHEAD)


def table(rows: list[Row]) -> str:
    lines = [
        f"| torch | triton | Python | {' | '.join(part.name for part in PARTS)} |",
        f"|---|---|---|{'---|' * len(PARTS)}",
    ]
    for row in rows:
        about = row.description
        if row.why_not:
            cells = [row.version.torch, row.version.triton, "", f"could not be had: {row.why_not}", "", ""]
        else:
            results = [str(row.outcomes.get(part.name, "by `make test`")) for part in PARTS]
            cells = [about["torch"], about["triton"], about["python"], *results]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def reasons(rows: list[Row]) -> str:
    """Why tests were skipped, over all versions."""
    every = [outcomes for row in rows for outcomes in row.outcomes.values()]
    found = sorted({reason for outcomes in every for reason in outcomes.reasons.values()})
    return "Skipped: " + "; ".join(found) + ".\n" if found else ""


def write(rows: list[Row]) -> None:
    commit = output_of("git", "describe", "--always", "--dirty").strip()
    machine = f"{platform.system()} {platform.machine()}"
    text = f"{MARKS[0]}\n{table(rows)}\n{reasons(rows)}\nAt commit {commit}, on {machine}.\n\n{MARKS[1]}"
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{re.escape(MARKS[0])}.*{re.escape(MARKS[1])}", lambda _: text, page, flags=re.DOTALL))


def main() -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    oldest = VERSIONS[0]
    named = sys.argv[1:]
    versions = [v for v in VERSIONS if v.torch in named] if named else list(VERSIONS)
    if len(versions) != len(named or VERSIONS):
        sys.exit(f"expected versions out of {', '.join(v.torch for v in VERSIONS)}, got {' '.join(named)}")
    if why_not := prepare(oldest):
        sys.exit(f"{oldest}: {why_not}")
    copy_sources()
    wheel = build(oldest)
    rows = []
    for version in versions:
        why_not = prepare(version)
        rows.append(Row(version, why_not) if why_not else install(version, wheel))
    binaries = {row.description["binary"] for row in rows if row.description}
    assert len(binaries) <= 1, "not one binary"
    for step in (run_tests, compile_ahead):
        for row in rows:
            if not row.why_not:
                step(row)
    print("\n" + table(rows) + "\n" + reasons(rows))
    if not named:
        write(rows)
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
