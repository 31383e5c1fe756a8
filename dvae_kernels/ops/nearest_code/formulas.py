"""The metrics, for all Python backends; csrc/nearest_code/formulas.h is the twin."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """Scores a row x and a code c as scale (x . c) - offset. No metric is both of these."""

    normalised: bool  # scale = 1 / |c|, 0 for a code of zeros; else 1
    distance: bool  # offset = |c|^2 / 2, so that x and c can be centred alike; else 0


MetricName = Literal["l2", "cosine", "dot"]
METRICS: dict[str, Metric] = {
    "l2": Metric(normalised=False, distance=True),
    "cosine": Metric(normalised=True, distance=False),
    "dot": Metric(normalised=False, distance=False),
}
