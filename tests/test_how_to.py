"""The example of docs/how-to/add-an-op.md, taken from the page as it stands: it builds, and keeps the contract.

In a process of its own, since an op that is defined once stays."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dvae_kernels import _extension

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "add-an-op.md"
# Beside the module of the other ops, whose active_target is not exported.
TARGET = '#include "simd/targets.h"\nnamespace dvae {\nCpuTarget active_target = best_target();\n}\n'
RUN = """
import runpy
import sys
import torch
import dvae_kernels, dvae_kernels.ops

folder, library = sys.argv[1:]
dvae_kernels.ops.__path__.append(f"{folder}/dvae_kernels/ops")
from dvae_kernels.ops.squared_norm import squared_norm
dvae_kernels.squared_norm = squared_norm
sys.path[:0] = [f"{folder}/tests/ops/squared_norm", "tests"]
from cases import OPINFO
from kit.oracle import assert_keeps_the_contract

if library:
    torch.ops.load_library(library)
for case in OPINFO.cases:
    for backend in ("reference", "cpp") if library else ("reference",):
        assert_keeps_the_contract(case, backend, "cpu")
x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
for call in (lambda x: squared_norm(x, backend="reference"), *([squared_norm] if library else [])):
    assert torch.autograd.gradcheck(call, x) and torch.autograd.gradgradcheck(call, x)
for call in OPINFO.raw_calls(torch.randn(4, 6), torch.tensor([1, 2])) if library else ():
    torch.library.opcheck(getattr(torch.ops.dvae_kernels, call[0]).cpp, call[1])
sys.path.insert(0, "bench")
runpy.run_path(f"{folder}/bench/cases/squared_norm.py")  # its imports: to measure is another matter
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, in a folder of their own."""
    folder = tmp_path_factory.mktemp("example")
    files = re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(files) == 10
    for path, text in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def build(example: Path) -> str:
    """The example's kernels as a library; an empty string where there is no compiled module or no compiler."""
    compiler = shutil.which("g++")
    if _extension.load("_C") or compiler is None:
        return ""
    home = Path(torch.__file__).parent
    (example / "target.cpp").write_text(TARGET)
    library = example / "squared_norm.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-shared", "-Wall", "-Wextra", "-Werror",
         "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{example / 'csrc'}", f"-I{ROOT / 'csrc'}",
         "-isystem", str(home / "include"), str(example / "target.cpp"), str(example / "csrc/squared_norm/cpu.cpp"),
         f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch", "-o", str(library)],
        check=True,
    )  # fmt: skip
    return str(library)


@pytest.mark.slow
def test_the_example_keeps_the_contract(example: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", RUN, str(example), build(example)], cwd=ROOT, env=env, check=True)


def test_the_example_is_styled(example: Path) -> None:
    for command in ("check --ignore I", "format --check"):  # which imports are our own shows in the repository alone
        ruff = [sys.executable, "-m", "ruff", *command.split(), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        subprocess.run([*ruff, str(example)], check=True)
