"""The user's program that mypy checks also runs."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_the_users_program_runs() -> None:
    runpy.run_path(str(Path(__file__).with_name("user_program.py")))
