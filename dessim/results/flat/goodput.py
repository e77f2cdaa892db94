"""Work done despite faults: what `goodput` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dessim.results.flat.view import Table, Values, View


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputRow(View):
    """A choice of the checkpoint interval, and the share of time that is useful work.

    `goodput_margin_95` is the half-width of its 95 % confidence interval, `goodput_daly` the value of Daly's complete
    model. The shares of checkpoints, lost work and restarts make up the rest. `failures`: mean number a run.
    """

    interval: str
    interval_s: float
    goodput: float
    goodput_margin_95: float
    goodput_daly: float
    checkpoint_share: float
    lost_share: float
    restart_share: float
    failures: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputResult(Table[GoodputRow]):
    """The goodput of a job for several checkpoint intervals, each a mean over `runs` runs of `days` days."""

    nodes: int
    days: float
    runs: int
    between_failures_s: float
    rows: tuple[GoodputRow, ...]

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return {"rows": tuple(map(GoodputRow.from_json, values["rows"]))}
