"""`python -m dvae_kernels.info`: what runs here, why the rest does not, and what was proven on which device."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import dvae_kernels
from dvae_kernels import _backend, _extension

_PROVEN = Path(__file__).with_name("_proven.json")
_MODULES = ("_C", "_C_cuda")


def proven() -> list[dict[str, str]]:
    """The committed record of GPU runs: {kernel, backend, device, torch, commit, date} for each kernel that passed."""
    entries: list[dict[str, str]] = json.loads(_PROVEN.read_text())
    return entries


def kernels() -> list[str]:
    """The ops that have kernels."""
    return sorted(
        name for name in torch.ops.dvae_kernels if "cuda" in getattr(torch.ops.dvae_kernels, name).overloads()
    )


def report() -> str:
    """Everything that this module knows, as aligned text."""
    sections = (
        ("Versions", _versions()),
        ("Backends", _backends()),
        ("Built", _built()),
        ("Proven on a GPU", _proofs()),
    )
    return "\n\n".join(f"{title}\n{_align(rows)}" for title, rows in sections)


def _versions() -> Iterable[Sequence[str]]:
    yield "dvae_kernels", dvae_kernels.__version__
    yield "python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"
    yield "torch", str(torch.__version__)
    yield "triton", _installed("triton")
    yield "CUDA", torch.version.cuda or "none (torch was built without it)"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            yield f"GPU {i}", f"{torch.cuda.get_device_name(i)} (sm_{major}{minor})"
    else:
        yield "GPU", "none"
    cores = f"{torch.get_num_threads()} threads"
    if _extension.load("_C"):
        yield "CPU", cores
    else:
        yield "CPU", f"{torch.ops.dvae_kernels.cpu_capability()} kernels, {cores}"


def _backends() -> Iterable[Sequence[str]]:
    for backend in _backend.NAMES:
        for device in ("cpu", "cuda"):
            reason = _backend.why_not(backend, device)
            if device == "cuda" and not reason and not torch.cuda.is_available():
                reason = "torch.cuda.is_available() is False"
            yield backend, device, f"not available: {reason}" if reason else "available"


def _built() -> Iterable[Sequence[str]]:
    for module in _MODULES:
        built = _extension.build_info(module)
        if not built:
            yield module, "not built"
            continue
        archs = ", ".join(f"sm_{arch}" for arch in built["archs"]) or platform.machine()
        yield module, f"for {archs} with {built['compiler']} and torch {built['torch']}"


def _proofs() -> Iterable[Sequence[str]]:
    entries: dict[tuple[str, str], list[dict[str, str]]] = {}
    for entry in proven():
        entries.setdefault((entry["kernel"], entry["backend"]), []).append(entry)
    for kernel in kernels():
        for backend in ("triton", "cuda"):
            passed = entries.get((kernel, backend), [])
            for e in passed:
                yield kernel, backend, f"{e['device']}, torch {e['torch']}, commit {e['commit']}, {e['date']}"
            if not passed:
                yield kernel, backend, "not yet run on a GPU"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _align(rows: Iterable[Sequence[Any]]) -> str:
    table = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in table)


if __name__ == "__main__":
    print(report())
