"""The outcome of a case, predicted and measured, and the verdict over many cases of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dessim.cluster.spread import interval

SPLITS = ("calibration", "development", "held_out")
"""Calibration cases fit the profile; development cases guided the models; held-out cases did neither, and only they
count for the bounds."""
DEFAULT_SPLITS = ("calibration", "held_out")
"""The splits that are measured by default. Development cases are for work on a model."""


def label(split: str) -> str:
    """`held-out` for `held_out`."""
    return split.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case of some `kind` (such as collectives), in one of `SPLITS`.

    `spread` is the standard deviation of log(measured / predicted) that the transport states; None: it states none.
    """

    name: str
    kind: str
    split: str
    predicted_s: float
    measured_s: float
    spread: float | None = None

    @property
    def error(self) -> float:
        """Relative to the measured time; positive where the prediction is too long."""
        return self.predicted_s / self.measured_s - 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the 80 % interval of the predicted time [s]."""
        return None if self.spread is None else interval(self.predicted_s, self.spread)

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        low, high = self.interval or (None, None)
        return {
            "name": self.name,
            "kind": self.kind,
            "split": self.split,
            "predicted_s": self.predicted_s,
            "low_s": low,
            "high_s": high,
            "measured_s": self.measured_s,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Bounds:
    """Upper bounds of the absolute errors of held-out cases: of their median and of their 95th percentile."""

    median_error: float
    p95_error: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and 95th percentile of the absolute errors of `n` cases.

    `covered` is the share of measured times within the 80 % intervals of their predictions; None without intervals.
    """

    n: int
    median_error: float
    p95_error: float
    covered: float | None = None

    def to_json(self) -> dict[str, Any]:
        errors = {"n": self.n, "median_error": self.median_error, "p95_error": self.p95_error}
        return {**errors, "covered": self.covered}


def summarize(outcomes: Sequence[Outcome]) -> Summary | None:
    """Return the summary of the outcomes, None where there are none."""
    if not outcomes:
        return None
    errors = np.abs([outcome.error for outcome in outcomes])
    known = [(outcome.interval, outcome.measured_s) for outcome in outcomes]
    inside = [interval[0] <= measured <= interval[1] for interval, measured in known if interval is not None]
    covered = float(np.mean(inside)) if inside else None
    return Summary(len(errors), float(np.median(errors)), float(np.percentile(errors, 95)), covered)


def summaries(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Summary]]:
    """Return a summary for each split and kind that has cases: splits in the order of SPLITS, kinds as they appear."""
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    by_split: dict[str, dict[str, Summary]] = {}
    for split in SPLITS:
        for kind in kinds:
            summary = summarize([o for o in outcomes if (o.split, o.kind) == (split, kind)])
            if summary is not None:
                by_split.setdefault(split, {})[kind] = summary
    return by_split


def broken_bounds(outcomes: Sequence[Outcome], bounds: Mapping[str, Bounds]) -> list[str]:
    """Return a sentence for each bound, by kind, that the held-out cases exceed."""
    sentences = []
    for kind, summary in summaries(outcomes).get("held_out", {}).items():
        if kind not in bounds:
            continue
        allowed = bounds[kind]
        for name, error, bound in (
            ("median", summary.median_error, allowed.median_error),
            ("95th percentile of the", summary.p95_error, allowed.p95_error),
        ):
            if not error <= bound:  # also where the error is not a number
                sentences.append(f"{kind}: {name} error {error:.1%} of {summary.n} held-out cases, allowed {bound:.0%}")
    return sentences
