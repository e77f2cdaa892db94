"""Goodput of a job on nodes that fail: simulated for several checkpoint intervals, beside Young's and Daly's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dessim.errors import UsageError
from dessim.sim.faults.goodput import (
    Estimate,
    Machine,
    best_interval,
    daly_goodput,
    daly_interval,
    estimate,
    young_interval,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint interval: what it is, what the simulation says of it, and what Daly's complete model does."""

    what: str
    simulated: Estimate
    formula: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        found = self.simulated
        return {
            "interval": self.what,
            "interval_s": found.interval,
            "goodput": found.goodput,
            "goodput_margin_95": found.margin,
            "goodput_daly": self.formula,
            "checkpoint_share": found.checkpoint_share,
            "lost_share": found.lost_share,
            "restart_share": found.restart_share,
            "failures": found.failures,
        }


@dataclass(frozen=True, slots=True)
class Goodput:
    """All of it: `rows` in the order they are shown, over `runs` runs of `days` each."""

    machine: Machine
    days: float
    runs: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "nodes": self.machine.nodes,
            "days": self.days,
            "runs": self.runs,
            "between_failures_s": self.machine.between_failures,
            "rows": [row.to_json() for row in self.rows],
        }


def goodput(machine: Machine, days: float, runs: int, seed: int, every: float | None = None) -> Goodput:
    """What intervals are worth: `every` seconds where given, the best one, half and twice that, Young's and Daly's.

    Means over `runs` runs of `days`, at least 2. Raises UsageError.
    """
    if runs < 2:
        raise UsageError(f"--runs {runs}: a mean with a margin needs at least 2")
    best = best_interval(machine, days, runs, seed)
    wanted = {
        "as asked": every,
        "best, simulated": best,
        "half of that": best / 2,
        "twice that": best * 2,
        "Young (1974)": young_interval(machine),
        "Daly (2006)": daly_interval(machine),
    }
    rows = [
        Row(what, estimate(machine, interval, days, runs, seed), daly_goodput(machine, interval))
        for what, interval in wanted.items()
        if interval is not None
    ]
    return Goodput(machine, days, runs, tuple(rows))
