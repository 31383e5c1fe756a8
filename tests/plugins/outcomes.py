"""pytest plugin: append every test's outcome to the file named by DVAE_KERNELS_OUTCOMES, one JSON object a line.

`make test` runs pytest in several processes, and only all of them together tell which tests ran nowhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_FILE = Path(os.environ["DVAE_KERNELS_OUTCOMES"])


def _record(test: str, outcome: str, reason: str = "") -> None:
    with _FILE.open("a") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "reason": reason}) + "\n")


def _skip_reason(longrepr: Any) -> str:
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return reason.removeprefix("Skipped: ")


def pytest_runtest_logreport(report: Any) -> None:
    if hasattr(report, "wasxfail"):
        _record(report.nodeid, "skipped", f"expected to fail: {report.wasxfail}")
    elif report.failed:
        _record(report.nodeid, "failed")
    elif report.skipped:
        _record(report.nodeid, "skipped", _skip_reason(report.longrepr))
    elif report.when == "call":
        _record(report.nodeid, "passed")


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _record(report.nodeid, "failed")
    elif report.skipped:
        _record(report.nodeid, "skipped", _skip_reason(report.longrepr))
