"""Goodput of a job on nodes that fail: simulated for several checkpoint intervals, beside Young's and Daly's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from dessim.commands.support.plain import Plain
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
from dessim.sim.progress import Progress

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputArguments(Plain):
    """The arguments of a Python call: the nodes of a machine, its times in seconds, and what to simulate."""

    nodes: int
    mtbf_s: _Seconds
    checkpoint_s: _Seconds
    restart_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    every_s: _Seconds | None = None
    days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    runs: Annotated[int, Field(ge=2, le=10_000)] = 20
    seed: Annotated[int, Field(ge=0)] = 0

    def run(self, progress: Progress | None = None) -> Goodput:
        """The goodput of the machine. Raises UsageError and OutOfTime."""
        machine = Machine(self.nodes, self.mtbf_s, self.checkpoint_s, self.restart_s)
        return goodput(machine, self.days, self.runs, seed=self.seed, every=self.every_s, progress=progress)


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint interval: its name, its simulated goodput, and the goodput of Daly's complete model."""

    name: str
    simulated: Estimate
    daly_goodput: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        simulated = self.simulated
        return {
            "interval": self.name,
            "interval_s": simulated.interval,
            "goodput": simulated.goodput,
            "goodput_margin_95": simulated.margin,
            "goodput_daly": self.daly_goodput,
            "checkpoint_share": simulated.checkpoint_share,
            "lost_share": simulated.lost_share,
            "restart_share": simulated.restart_share,
            "failures": simulated.failures,
        }


@dataclass(frozen=True, slots=True)
class Goodput:
    """The goodput of a machine: `rows` in display order, each the mean over `runs` runs of `days` days."""

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


def goodput(
    machine: Machine, days: float, runs: int, *, seed: int, every: float | None = None, progress: Progress | None = None
) -> Goodput:
    """Simulate the goodput of several checkpoint intervals.

    The intervals are `every` seconds where given, the best one found by simulation, half and twice that, and the optima
    of Young (1974) and Daly (2006). `seed` draws the failures. Raises UsageError for fewer than 2 runs, where no work
    survives, or where there are too many events to simulate, and OutOfTime.
    """
    if runs < 2:
        raise UsageError(f"--runs {runs}: a mean with a confidence interval needs at least 2")
    progress = progress or Progress()
    best = best_interval(machine, days, runs, seed, progress.within(0, 2))
    intervals = {
        "as asked": every,
        "best, simulated": best,
        "half of that": best / 2,
        "twice that": best * 2,
        "Young (1974)": young_interval(machine),
        "Daly (2006)": daly_interval(machine),
    }
    asked = {name: interval for name, interval in intervals.items() if interval is not None}
    rest = progress.within(1, 2)
    rows: list[Row] = []
    for name, interval in asked.items():
        simulated = estimate(
            machine, interval, days, runs=runs, seed=seed, progress=rest.within(len(rows), len(asked), "intervals")
        )
        rows.append(Row(name, simulated, daly_goodput(machine, interval)))
    return Goodput(machine, days, runs, tuple(rows))
