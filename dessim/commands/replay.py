"""Replay: a recorded trace on a described cluster, and how far the prediction is from what was measured.

Compute takes as long as it took, collectives as long as the simulator says. Two measurements are held against it: the
recorded steps themselves (*self-replay*: is the model of what happened right?) and other, plain steps of the same run
that ran without the recorder (the prediction's error).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dessim.cluster import Cluster
from dessim.results.metrics import Breakdown, breakdown, step_times
from dessim.results.timeline import Counter, Slice
from dessim.sim.core.recorder import Record
from dessim.sim.engine import simulate
from dessim.sim.progress import Progress
from dessim.trace.io import Trace
from dessim.trace.schema import Collective, Op
from dessim.workload.from_trace import workload_from_trace


@dataclass(frozen=True, slots=True)
class Replay:
    """A replayed trace. Step times in seconds, one a step; means of them, because a run is the sum of its steps."""

    cluster: str
    ranks: int
    strategy: str
    record: Record
    breakdown: Breakdown
    predicted: tuple[float, ...]
    recorded: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def predicted_step_s(self) -> float:
        return fmean(self.predicted)

    @property
    def measured_step_s(self) -> float | None:
        """Mean of the steps that ran without the recorder; None when the trace has none."""
        return fmean(self.plain) if self.plain else None

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured, minus 1."""
        return None if self.measured_step_s is None else self.predicted_step_s / self.measured_step_s - 1

    @property
    def self_replay_error(self) -> float | None:
        """The same against the recorded steps."""
        return self.predicted_step_s / fmean(self.recorded) - 1 if self.recorded else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "cluster": self.cluster,
            "strategy": self.strategy,
            "ranks": self.ranks,
            "steps": len(self.predicted),
            "predicted_step_s": self.predicted_step_s,
            "measured_step_s": self.measured_step_s,
            "prediction_error": self.prediction_error,
            "recorded_step_s": fmean(self.recorded) if self.recorded else None,
            "self_replay_error": self.self_replay_error,
            **self.breakdown.to_json(),
        }

    def step_rows(self) -> list[dict[str, Any]]:
        """Predicted and recorded seconds of each step, for figures."""
        return [
            {"step": i, "predicted_s": p, "measured_s": m}
            for i, (p, m) in enumerate(zip(self.predicted, self.recorded, strict=False))
        ]


def replay(
    trace: Trace,
    cluster: Cluster,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    progress: Progress | None = None,
    stretch: Callable[[Op], float] | None = None,
) -> Replay:
    """Replay a trace; rank r on GPU r. `stretch` is how many times as long as recorded a compute op takes.

    Raises CapacityError when the cluster is too small, OutOfTime.
    """
    record = simulate(cluster, workload_from_trace(trace, stretch), algorithms, folding, progress=progress)
    measured = trace.header.step_us
    return Replay(
        cluster=cluster.name,
        ranks=trace.header.world_size,
        strategy=trace.header.strategy,
        record=record,
        breakdown=breakdown(record),
        predicted=tuple(step_times(record)),
        recorded=tuple(us * 1e-6 for us in measured.get("recorded", ())),
        plain=tuple(us * 1e-6 for us in measured.get("plain", ())),
    )


def counters_of(record: Record) -> Iterator[Counter]:
    """The utilisation of each link class over time, in per cent of its capacity, as counters of the network."""
    load = record.load
    for kind in load.rate:
        # The last value holds for ever: nothing.
        share = [*(100 * load.share(kind)).tolist(), 0.0]
        for at, percent in zip(load.time.tolist(), share, strict=True):
            yield Counter("network", f"{kind} (% of capacity)", at, {"busy": round(percent, 6)})


def timeline_of(record: Record) -> Iterator[Slice]:
    """The record's spans as slices: one process a rank class, one thread a stream."""
    names = [f"rank {r[0]}" if len(r) == 1 else f"ranks {r[0]}-{r[-1]} (alike)" for r in record.classes]
    for span in sorted(record.spans, key=lambda s: (s.rank_class, s.start)):
        if span.collective is Collective.BARRIER:
            continue
        args: dict[str, Any] = {"step": span.step, "bound by": span.bound_by}
        if span.collective is not None:
            args |= {
                "bytes": round(span.size),
                "algorithm": span.algorithm or "none",
                "waited for others (us)": round((span.moving - span.start) * 1e6, 3),
            }
        category = str(span.collective or span.kind)
        yield Slice(names[span.rank_class], span.stream, span.name, category, span.start, span.end - span.start, args)
