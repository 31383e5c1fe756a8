"""Indices that name no category and no code. The C++ twin is csrc/common/indices.h."""

from __future__ import annotations

NONE = -1  # a row of only -inf: there is nothing to choose
NAN = -2  # a row with NaN or +inf
MASKED = -1  # a row that takes no part: its code is zeros
