"""The parts of tools/gpu.py that its dry run in `make test` cannot show: a GPU hour must not be lost to a slip."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "tools" / "gpu.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def a_run(gpu: ModuleType, tmp_path: Path) -> Any:
    return gpu.Run(tmp_path, dry=False, commit="abc1234")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_failing_step_stops_only_what_needs_it(gpu: ModuleType, a_run: Any) -> None:
    a_run.step(gpu.Step("bad", python("import sys; print('why it failed'); sys.exit(3)"), 30))
    a_run.step(gpu.Step("dependent", python("print('ran')"), 30, needs="bad"))
    a_run.step(gpu.Step("independent", python("print('ran')"), 30))
    a_run.step(gpu.Step("absent", ["no-such-program"], 30))
    results = a_run.results
    assert (results["bad"].status, results["bad"].note) == ("failed", "why it failed")
    assert (results["dependent"].status, results["dependent"].note) == ("not run", "needs 'bad'")
    assert (results["independent"].status, results["independent"].note) == ("ok", "ran")
    assert results["absent"].status == "failed"


def test_a_step_that_hangs_is_killed_with_its_children(gpu: ModuleType, a_run: Any, tmp_path: Path) -> None:
    mark = tmp_path / "survived"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    a_run.step(gpu.Step("hang", python(code), 10))
    assert a_run.results["hang"].status == "timed out"
    pid = mark.read_text()  # the child was started
    status = Path(f"/proc/{pid}/status")
    for _ in range(100):  # until init has buried it
        if not status.exists() or "\nState:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} outlived its step")


def test_nothing_starts_after_the_deadline(gpu: ModuleType, a_run: Any) -> None:
    a_run.deadline = time.monotonic()
    a_run.step(gpu.Step("late", python("print('ran')"), 30))
    assert (a_run.results["late"].status, a_run.results["late"].note) == ("not run", "out of time")


def test_only_skips_prove_nothing(gpu: ModuleType, a_run: Any) -> None:
    a_run.step(gpu.Step("tests, triton", python("print('12 skipped in 1s')"), 30, must_pass=True))
    a_run.step(gpu.Step("tests, cuda", python("print('3 passed, 12 skipped in 1s')"), 30, must_pass=True))
    assert a_run.results["tests, triton"].status == "failed"
    assert a_run.results["tests, cuda"].status == "ok"


def test_proofs_replace_older_ones_of_the_same_kernel_and_device(
    gpu: ModuleType, a_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps([["gumbel_softmax_fwd"], "NVIDIA H100", "2.11.0"])
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: gpu.subprocess.CompletedProcess([], 0, stdout=answer))
    a_run.results["tests, triton"] = gpu.Result("ok")
    a_run.results["tests, cuda"] = gpu.Result("failed")
    for commit in ("old", "new"):
        a_run.commit = commit
        gpu.write_proven(a_run)
    entries = json.loads((a_run.out / "proven.json").read_text())
    ours = [e for e in entries if e["device"] == "NVIDIA H100" and e["torch"] == "2.11.0"]
    assert [(e["kernel"], e["backend"], e["commit"]) for e in ours] == [("gumbel_softmax_fwd", "triton", "new")]


@pytest.mark.parametrize("carried", [True, False])
def test_the_plan_for_a_gpu(gpu: ModuleType, a_run: Any, tmp_path: Path, carried: bool) -> None:
    """All steps are asked for, with programs that exist, and both backends are tested and watched."""
    steps: dict[str, Any] = {}

    def record(step: Any) -> None:
        steps[step.name] = step
        a_run.results[step.name] = gpu.Result("ok" if step.name != gpu.CARRIED or carried else "failed")

    a_run.step = record
    gpu.run_all(a_run, tmp_path)
    for backend in ("triton", "cuda"):
        for name in ("small", "graph", "tests", "memcheck", "racecheck"):
            assert f"{name}, {backend}" in steps
    assert ("build" in steps) is not carried
    for step in steps.values():
        assert step.command[0] in (sys.executable, "compute-sanitizer") or Path(step.command[0]).exists()
        assert not step.needs or step.needs in steps
        assert all(Path(ROOT, part).exists() for part in step.command if part.endswith(".py"))
    assert "--dry" not in str(steps) and "interpret" not in str(steps).lower()
