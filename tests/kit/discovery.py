"""The ops under test: every tests/ops/<op>/cases.py holds an OPINFO, and the generic tests do the rest."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kit.opinfo import Case, Op, OpInfo

FOLDER = Path(__file__).parents[1] / "ops"
OPINFOS: list[OpInfo] = [
    import_module(f"ops.{cases.parent.name}.cases").OPINFO for cases in sorted(FOLDER.glob("*/cases.py"))
]
CASES: list[Case] = [case for info in OPINFOS for case in info.cases]
OPS: list[Op] = [op for info in OPINFOS for op in info.ops]
