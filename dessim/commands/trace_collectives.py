"""The collectives of a recorded job against the simulator: each predicted from all others (leave one out).

What is predicted is the transfer, from the last rank's start to the last rank's end; waiting for a late rank is nothing
that a network can be blamed for. The cluster's description gives rates; calls and latencies are fitted
(dessim.calibrate.recorded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from dessim.calibrate.recorded import Overheads, Timed, fit_overheads, leave_one_out
from dessim.cluster import Cluster
from dessim.cluster.scaled import scaled
from dessim.errors import UsageError
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.io import Trace
from dessim.trace.matched import Matched, matched_collectives
from dessim.trace.schema import Collective
from dessim.workload.one_collective import collective_task, collectives_at_once


@dataclass(frozen=True, slots=True)
class Predicted:
    """One recorded collective. Times in seconds; `left_out_s` is predicted without it, `described_s` without any fit,
    `rates_too_s` without it where rates are fitted as well.
    """

    what: Matched
    algorithm: str
    timed: Timed
    described_s: float
    left_out_s: float
    rates_too_s: float

    @property
    def error(self) -> float:
        """Predicted without it over measured, minus 1."""
        return self.left_out_s / self.timed.measured_s - 1

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        waiting = list(self.what.waiting_us.values())
        return {
            "step": self.what.step,
            "name": self.what.name,
            "collective": str(self.what.collective),
            "algorithm": self.algorithm,
            "ranks": len(self.what.ops),
            "bytes": max(op.bytes for op in self.what.ops.values()),
            "measured_s": self.timed.measured_s,
            "waiting_median_s": 1e-6 * median(waiting),
            "waiting_max_s": 1e-6 * max(waiting),
            "described_s": self.described_s,
            "predicted_s": self.left_out_s,
            "error": self.error,
            "rates_fitted_s": self.rates_too_s,
        }


@dataclass(frozen=True, slots=True)
class Held:
    """All collectives of a trace, and the fit to all of them on `cluster`, the described one with what was fitted."""

    rows: tuple[Predicted, ...]
    fit: Overheads
    cluster: Cluster

    @property
    def median_error(self) -> float:
        """Median of the absolute errors, each collective predicted from the others."""
        return median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """The largest of them."""
        return max(abs(row.error) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""

        def errors(predicted: Sequence[float]) -> dict[str, float]:
            found = [abs(p / row.timed.measured_s - 1) for p, row in zip(predicted, self.rows, strict=True)]
            return {"median": median(found), "worst": max(found)}

        return {
            "cluster": self.cluster.name,
            "n": len(self.rows),
            "op_overhead_s": self.fit.op_overhead,
            "latency_factor": self.fit.latency_factor,
            "errors": {
                "left_out": errors([row.left_out_s for row in self.rows]),
                "described": errors([row.described_s for row in self.rows]),
                "rates_fitted": errors([row.rates_too_s for row in self.rows]),
            },
            "collectives": [row.to_json() for row in self.rows],
        }


def hold_against(trace: Trace, cluster: Cluster) -> Held:
    """Predict every collective of a trace that moves bytes. Raises UsageError when there are too few, CapacityError."""
    cluster.require(trace.header.world_size)
    found = [one for one in matched_collectives(trace) if _moves(one)]
    # The algorithm is the described cluster's choice: another one for each part would be no parts of one time.
    alone = [(one, *run_alone(one, trace, cluster)) for one in found]
    bare, at_once = with_overheads(cluster, 0.0, 1.0), with_overheads(cluster, 0.0, 0.0)
    timed = []
    for one, _, algorithm in alone:
        (with_latency, _), (wire, _) = (run_alone(one, trace, on, algorithm) for on in (bare, at_once))
        timed.append(Timed(1e-6 * one.transfer_us, with_latency - wire, wire))
    try:
        fits, rates_too, fit = leave_one_out(timed), leave_one_out(timed, rates=True), fit_overheads(timed)
    except ValueError as error:
        raise UsageError(f"{trace.path}: {error}") from None
    rows = []
    for (one, described_s, algorithm), sample, others, rates in zip(alone, timed, fits, rates_too, strict=True):
        on = with_overheads(cluster, others.op_overhead, others.latency_factor)
        predicted_s, _ = run_alone(one, trace, on, algorithm)
        rows.append(Predicted(one, algorithm, sample, described_s, predicted_s, rates.seconds(sample)))
    return Held(tuple(rows), fit, with_overheads(cluster, fit.op_overhead, fit.latency_factor))


def with_overheads(cluster: Cluster, op_overhead: float, latency_factor: float) -> Cluster:
    """The cluster with other costs of a call, its latencies multiplied, and nothing that a message costs."""
    transport = replace(cluster.transport, op_overhead=op_overhead, message_overhead=0.0)
    return replace(scaled(cluster, "latency", latency_factor), transport=transport)


def run_alone(one: Matched, trace: Trace, cluster: Cluster, algorithm: str = "auto") -> tuple[float, str]:
    """Seconds that a collective takes on an idle cluster, all ranks starting together, and by which algorithm."""
    group = {one.group: trace.header.groups[one.group]}
    tasks = [
        (
            (rank,),
            collective_task(
                one.collective,
                float(op.bytes),
                name=one.name,
                group=one.group,
                phase=op.phase,
                splits=op.splits,
            ),
        )
        for rank, op in sorted(one.ops.items())
    ]
    workload = collectives_at_once(tasks, group, trace.header.world_size, name=one.name)
    record = simulate(cluster, workload, {one.collective: algorithm}, routed=RouteCache(cluster))
    took = max(span.end for span in record.spans) - max(span.start for span in record.spans)
    return took, record.spans[0].algorithm or algorithm


def _moves(one: Matched) -> bool:
    return one.collective is not Collective.BARRIER and one.transfer_us > 0 and any(op.bytes for op in one.ops.values())
