"""`python -m dvae_kernels.info`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dvae_kernels
from dvae_kernels import _backend, info


def rows(report: str, section: str) -> list[str]:
    block = next(block for block in report.split("\n\n") if block.startswith(section + "\n"))
    return block.splitlines()[1:]


def test_runs_as_a_program() -> None:
    result = subprocess.run([sys.executable, "-m", "dvae_kernels.info"], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0] == "Versions"
    assert f"  torch         {torch.__version__}" in result.stdout.splitlines()
    assert f"  dvae_kernels  {dvae_kernels.__version__}" in result.stdout.splitlines()
    assert result.stderr == ""


def test_every_backend_with_its_reason() -> None:
    lines = rows(info.report(), "Backends")
    assert len(lines) == 2 * len(_backend.NAMES)
    for line in lines:
        backend, device, *_ = line.split()
        reason = _backend.why_not(backend, device)
        if device == "cuda" and not torch.cuda.is_available():
            assert "not available: " in line
        elif reason:
            assert line.endswith(f"not available: {reason}")
        else:
            assert line.split()[2:] == ["available"]


def test_columns_are_aligned() -> None:
    for section in ("Versions", "Backends", "Proven on a GPU"):
        lines = rows(info.report(), section)
        first = lines[0].split()[0]
        column = len(lines[0]) - len(lines[0][2 + len(first) :].lstrip())
        assert all(line[column - 1] == " " and line[column] != " " for line in lines), section


def test_kernels_not_run_on_a_gpu_are_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "proven.json"
    proof = {"device": "NVIDIA H100", "torch": "2.11.0", "commit": "abc1234", "date": "2026-11-23"}
    table.write_text(json.dumps([{"kernel": "gumbel_softmax_fwd", "backend": "triton", **proof}]))
    monkeypatch.setattr(info, "_PROVEN", table)
    lines = [" ".join(line.split()) for line in rows(info.report(), "Proven on a GPU")]
    assert "gumbel_softmax_fwd triton NVIDIA H100, torch 2.11.0, commit abc1234, 2026-11-23" in lines
    assert "gumbel_softmax_fwd cuda not yet run on a GPU" in lines
    assert "gumbel_softmax_bwd triton not yet run on a GPU" in lines


def test_committed_proofs_are_complete() -> None:
    for entry in info.proven():
        assert set(entry) == {"kernel", "backend", "device", "torch", "commit", "date"}
        assert entry["kernel"] in info.kernels()
        assert entry["backend"] in ("triton", "cuda")
