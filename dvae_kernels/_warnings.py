"""Warnings that come once a process."""

from __future__ import annotations

import warnings

_given: set[tuple[str, str]] = set()


def warn_once(op: str, reason: str, message: str, *, stacklevel: int = 3) -> None:
    """Warn at the line that called the function which calls this one, or so many further up; once an op and reason."""
    if (op, reason) not in _given:
        _given.add((op, reason))
        warnings.warn(f"{op}: {message}", stacklevel=stacklevel)
