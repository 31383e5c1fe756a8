"""The ops under test: every tests/ops/<op>/cases.py holds an OPINFO, and the generic tests do the rest."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kit.opinfo import Case, Op, OpInfo

FOLDERS = sorted(cases.parent.name for cases in (Path(__file__).parents[1] / "ops").glob("*/cases.py"))
OPINFOS: list[OpInfo] = [import_module(f"ops.{folder}.cases").OPINFO for folder in FOLDERS]
assert [info.name for info in OPINFOS] == FOLDERS, "an OpInfo has the name of its folder"
CASES: list[Case] = [case for info in OPINFOS for case in info.cases]
OPS: list[Op] = [op for info in OPINFOS for op in info.ops]
