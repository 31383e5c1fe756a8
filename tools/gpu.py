"""`make gpu`: everything that needs a GPU, in one call of under nine minutes, with this machine's own python3, torch
and nvcc and no network. `--dry` goes through the same steps on the CPU.

Every step is a process with its own time limit, and a step that fails stops no other, but those that need it. Ends
with a table. In the output folder: gpu.log, summary.txt, bench.json and proven.json, which is to be committed as
dvae_kernels/_proven.json. Wheels that a machine without network lacks (pytest, ...) are taken from .whl/.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 520
PYTHON = sys.executable
STEPS = str(ROOT / "tools" / "gpu_steps.py")
CARRIED = "load carried module"


@dataclass
class Step:
    name: str
    command: list[str]
    limit: float  # seconds
    env: dict[str, str] = field(default_factory=dict)
    needs: str = ""  # the step without which this one cannot run
    must_pass: bool = False  # a pytest step of which only skips remain proves nothing


@dataclass
class Result:
    status: str  # ok, failed, timed out, not run
    seconds: float = 0.0
    note: str = ""


class Run:
    def __init__(self, out: Path, dry: bool, commit: str):
        self.out, self.dry, self.commit = out, dry, commit
        self.deadline = time.monotonic() + TOTAL_SECONDS
        self.results: dict[str, Result] = {}
        self.log = (out / "gpu.log").open("wb")
        self.python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def step(self, step: Step) -> None:
        needed = self.results.get(step.needs)
        remaining = self.deadline - time.monotonic()
        if needed and needed.status != "ok":
            result = Result("not run", note=f"needs '{step.needs}'")
        elif remaining < 5:
            result = Result("not run", note="out of time")
        else:
            result = self._execute(step, min(step.limit, remaining))
        self.results[step.name] = result
        print(f"{result.status:9} {step.name:20} {result.seconds:5.0f} s  {result.note}", flush=True)

    def _execute(self, step: Step, limit: float) -> Result:
        self.log.write(f"\n=== {step.name}: {' '.join(step.command)}\n".encode())
        self.log.flush()
        begin = self.log.tell()
        env = {**os.environ, "PYTHONPATH": self.python_path, **step.env}
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=env, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return Result("failed", note=str(error))
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Result("timed out", time.monotonic() - started, f"after {limit:.0f} s")
        seconds = time.monotonic() - started
        output = (self.out / "gpu.log").read_bytes()[begin:].decode(errors="replace").rstrip()
        note = output.rpartition("\n")[2].strip("= ")[:100]
        if status == 0 and step.must_pass and not self.dry and not re.search(r"\b\d+ passed", note):
            return Result("failed", seconds, f"no test passed: {note}")
        return Result("failed" if status else "ok", seconds, note)

    def skip(self, name: str, why: str) -> None:
        self.results[name] = Result("not run", note=why)
        print(f"{'not run':9} {name:20}      -   {why}", flush=True)


def installed(module: str, site: Path) -> bool:
    return importlib.util.find_spec(module) is not None or (site / module).exists()


def build_command(dry: bool, out: Path) -> tuple[list[str], dict[str, str]]:
    if dry:  # beside the package, which other tests are using
        return [PYTHON, "setup.py", "-q", "build_ext", "--build-lib", str(out / "lib")], {
            "DVAE_KERNELS_BUILD_CUDA": "0"
        }
    query = "import torch; print('%d%d' % torch.cuda.get_device_capability())"
    arch = subprocess.run([PYTHON, "-c", query], capture_output=True, text=True).stdout.strip()
    return (
        [PYTHON, "setup.py", "-q", "build_ext", "--inplace"],
        {"DVAE_KERNELS_BUILD_CUDA": "1", "DVAE_KERNELS_CUDA_ARCHS": arch},
    )


def run_all(run: Run, scratch: Path) -> None:
    dry, device = run.dry, "cpu" if run.dry else "cuda"
    if not dry:
        run.step(
            Step("GPU", [PYTHON, "-c", "import torch; print(torch.cuda.get_device_name(), torch.__version__)"], 60)
        )
        if run.results["GPU"].status != "ok":
            print(f"{PYTHON} has no torch that sees an NVIDIA GPU; make gpu GPU_DRY=1 runs the same steps on the CPU")
            return
    compiled = "cpp" if dry else "cuda"
    interpreter = {"TRITON_INTERPRET": "1"} if dry else {}
    site = scratch / "site"
    wheels = sorted(str(p) for p in (ROOT / ".whl").glob("*.whl"))
    if wheels and not dry:
        pip = [PYTHON, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
        run.step(Step("carried wheels", [*pip, *wheels], 60))
        run.python_path += os.pathsep + str(site)

    def ours(name: str, backend: str) -> list[str]:
        return [PYTHON, STEPS, name, "--backend", backend, "--device", device]

    module = CARRIED
    if not dry:
        run.step(Step(CARRIED, ours("load", compiled), 30))
    if dry or run.results[CARRIED].status != "ok":
        command, env = build_command(dry, scratch)
        run.step(Step("build", command, 150, env))
        module = "load built module"
        run.step(Step(module, ours("load", compiled), 30, needs="build"))
    run.step(Step("info", [PYTHON, "-m", "dvae_kernels.info"], 30))

    for backend, env, needs in (("triton", interpreter, ""), (compiled, {}, module)):
        run.step(Step(f"small, {backend}", ours("small", backend), 120, env, needs))
        run.step(Step(f"graph, {backend}", ours("graph", backend), 80, env, needs))
    pytest = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if installed("pytest", site) and installed("hypothesis", site):
        # most of the time is compiling Triton kernels, on one core each
        workers = ["-n", "8"] if installed("xdist", site) and not dry else []
        tests = [*pytest, *workers, "-m", "gpu", "--maxfail=20", "tests"]
        run.step(Step("tests, cuda", [*tests, "-k", "cuda-cuda"], 120, must_pass=True))
        run.step(Step("tests, triton", [*tests, "-k", "not cuda-cuda"], 150, must_pass=True))
    else:
        run.skip("tests", "pytest or hypothesis is missing: carry its wheels in .whl/")
    if installed("pytest_benchmark", site):
        bench = [
            *pytest,
            "bench",
            "--device",
            device,
            "--benchmark-quiet",
            "--save-results",
            str(run.out / "bench.json"),
        ]
        run.step(Step("benchmarks", [*bench, *(["--quick"] if dry else ["--seconds", "0.5"])], 150))
    else:
        run.skip("benchmarks", "pytest-benchmark is missing: carry its wheel in .whl/")
    sanitizer = [PYTHON, STEPS, "stub"] if dry else [shutil.which("compute-sanitizer") or "compute-sanitizer"]
    watched = [(tool, backend) for tool in ("memcheck", "racecheck") for backend in (compiled, "triton")]
    # without torch's caching allocator every tensor is an allocation that memcheck knows
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool, backend in watched[:1] if dry else watched:
        command = [*sanitizer, "--tool", tool, "--error-exitcode", "9", *ours("small", backend)]
        run.step(Step(f"{tool}, {backend}", command, 90, env, module if backend != "triton" else ""))


def write_proven(run: Run) -> None:
    """The committed record with this run's proofs added; a kernel is proven when all tests of its backend passed."""
    backends = [b for b in ("triton", "cuda") if (r := run.results.get(f"tests, {b}")) and r.status == "ok"]
    entries = json.loads((ROOT / "dvae_kernels" / "_proven.json").read_text())
    if backends and not run.dry:
        query = (
            "import json, torch; from dvae_kernels import info;"
            "print(json.dumps([info.kernels(), torch.cuda.get_device_name(), torch.__version__]))"
        )
        env = {**os.environ, "PYTHONPATH": run.python_path}
        answer = subprocess.run([PYTHON, "-c", query], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        kernels, device, torch_version = json.loads(answer.stdout)
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        for kernel in kernels:
            for backend in backends:
                proof = {"kernel": kernel, "backend": backend, "device": device}
                entries = [e for e in entries if any(e[k] != v for k, v in proof.items())]
                entries.append({**proof, "torch": torch_version, "commit": run.commit, "date": today})
    (run.out / "proven.json").write_text(json.dumps(entries, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="the same on the CPU, at tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--commit", default="unknown", help="what is being proven")
    args = parser.parse_args()
    out = (ROOT / args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out, args.dry, args.commit)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        run_all(run, Path(scratch))
    write_proven(run)

    rows = [("step", "status", "s", "note")]
    rows += [(name, r.status, f"{r.seconds:.0f}", r.note) for name, r in run.results.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)
    good = sum(r.status == "ok" for r in run.results.values())
    table += f"\n{good} of {len(run.results)} steps ok in {time.monotonic() - started:.0f} s"
    (out / "summary.txt").write_text(table + "\n")
    print("\n" + table)
    # a carried module may be absent where it can be built
    return int(any(r.status != "ok" for name, r in run.results.items() if name != CARRIED))


if __name__ == "__main__":
    sys.exit(main())
