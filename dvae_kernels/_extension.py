"""Loading of the compiled modules, with errors that say what to do."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

_BUILD_INFO = Path(__file__).with_name("_build_info.json")
_HOW = {
    "_C": "build it with a C++17 compiler: pip install --no-build-isolation -e . (in a checkout: make build)",
    "_C_cuda": "build it with nvcc: DVAE_KERNELS_BUILD_CUDA=1 pip install --no-build-isolation -e .",
}


def build_info(module: str) -> dict[str, Any]:
    """The record that setup.py made when it built `module` (torch, compiler, architectures); empty if it did not."""
    try:
        info: dict[str, Any] = json.loads(_BUILD_INFO.read_text()).get(module, {})
    except (OSError, ValueError):
        return {}
    return info


@cache
def load(module: str) -> str:
    """Load `dvae_kernels.<module>` once, which registers its kernels. Returns why it cannot, or an empty string."""
    spec = importlib.util.find_spec(f"dvae_kernels.{module}")
    if spec is None or spec.origin is None:
        return f"dvae_kernels.{module} is not built; {_HOW[module]}"
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        built = build_info(module).get("torch", "an unknown version")
        return f"dvae_kernels.{module} was built for torch {built}, found {torch.__version__}: {error}; {_HOW[module]}"
    return ""
