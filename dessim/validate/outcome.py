"""One case predicted and measured, and the verdict over many. Knows nothing of what the cases are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SPLITS = ("calibration", "development", "held_out")
"""What a profile was fitted to, what models were written with, and what neither has seen: only the last counts."""
MEASURED = ("calibration", "held_out")
"""What is measured where nobody says what; development cases are for who works on a model."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case of some `kind` (such as collectives), in one of `SPLITS`."""

    name: str
    kind: str
    split: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Relative to what was measured; above 0: predicted too long."""
        return self.predicted_s / self.measured_s - 1

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "split": self.split,
            "predicted_s": self.predicted_s,
            "measured_s": self.measured_s,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the absolute errors of held-out cases may be: their median, and what 95 % of them stay below."""

    median_error: float
    p95_error: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Absolute errors of `n` cases."""

    n: int
    median_error: float
    p95_error: float

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "median_error": self.median_error, "p95_error": self.p95_error}


def summarize(outcomes: Sequence[Outcome]) -> Summary | None:
    """Of none: None."""
    if not outcomes:
        return None
    errors = np.abs([outcome.error for outcome in outcomes])
    return Summary(len(errors), float(np.median(errors)), float(np.percentile(errors, 95)))


def summaries(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Summary]]:
    """By split and kind, in the order of SPLITS and of first mention; what has no case is left out."""
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    found: dict[str, dict[str, Summary]] = {}
    for split in SPLITS:
        for kind in kinds:
            summary = summarize([o for o in outcomes if (o.split, o.kind) == (split, kind)])
            if summary is not None:
                found.setdefault(split, {})[kind] = summary
    return found


def broken(outcomes: Sequence[Outcome], bounds: Mapping[str, Bounds]) -> list[str]:
    """A sentence for each bound, by kind, that the held-out cases break."""
    said = []
    for kind, summary in summaries(outcomes).get("held_out", {}).items():
        if kind not in bounds:
            continue
        allowed = bounds[kind]
        for what, is_now, may_be in (
            ("median", summary.median_error, allowed.median_error),
            ("95th percentile of the", summary.p95_error, allowed.p95_error),
        ):
            if not is_now <= may_be:
                said.append(f"{kind}: {what} error {is_now:.1%} of {summary.n} held-out cases, allowed {may_be:.0%}")
    return said
