"""The collectives of a recorded job: each predicted from a fit to all the others (leave one out).

The predicted time is that of the transfer, from the last rank's start to the last rank's end; waiting for a late rank
does not count, because the network does not cause it. The cluster's description gives the rates; the overhead of a call
and a factor for the latencies are fitted (dessim.calibrate.recorded).
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
    """One recorded collective with three predictions, in seconds.

    `left_out_s` comes from a fit to all other collectives, `rates_fitted_s` from such a fit that also fits the rates,
    and `described_s` from the cluster's description without a fit.
    """

    recorded: Matched
    algorithm: str
    timed: Timed
    described_s: float
    left_out_s: float
    rates_fitted_s: float

    @property
    def error(self) -> float:
        """`left_out_s` over the measured time, minus 1."""
        return self.left_out_s / self.timed.measured_s - 1

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        waiting_us = list(self.recorded.waiting_us.values())
        return {
            "step": self.recorded.step,
            "name": self.recorded.name,
            "collective": str(self.recorded.collective),
            "algorithm": self.algorithm,
            "ranks": len(self.recorded.ops),
            "bytes": max(op.bytes for op in self.recorded.ops.values()),
            "measured_s": self.timed.measured_s,
            "waiting_median_s": 1e-6 * median(waiting_us),
            "waiting_max_s": 1e-6 * max(waiting_us),
            "described_s": self.described_s,
            "predicted_s": self.left_out_s,
            "error": self.error,
            "rates_fitted_s": self.rates_fitted_s,
        }


@dataclass(frozen=True, slots=True)
class Held:
    """The collectives of a trace, and the fit to all of them. `cluster` is the described one with the fitted costs."""

    rows: tuple[Predicted, ...]
    fit: Overheads
    cluster: Cluster

    @property
    def median_error(self) -> float:
        """Median of the absolute errors of `left_out_s`."""
        return median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """The largest absolute error of `left_out_s`."""
        return max(abs(row.error) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""

        def errors(predicted: Sequence[float]) -> dict[str, float]:
            absolute = [abs(p / row.timed.measured_s - 1) for p, row in zip(predicted, self.rows, strict=True)]
            return {"median": median(absolute), "worst": max(absolute)}

        return {
            "cluster": self.cluster.name,
            "n": len(self.rows),
            "op_overhead_s": self.fit.op_overhead,
            "latency_factor": self.fit.latency_factor,
            "errors": {
                "left_out": errors([row.left_out_s for row in self.rows]),
                "described": errors([row.described_s for row in self.rows]),
                "rates_fitted": errors([row.rates_fitted_s for row in self.rows]),
            },
            "collectives": [row.to_json() for row in self.rows],
        }


def hold_against(trace: Trace, cluster: Cluster) -> Held:
    """Predict every collective of `trace` that moves bytes.

    Raises UsageError where there are too few for a fit, and CapacityError where the cluster is too small.
    """
    cluster.require(trace.header.world_size)
    recorded = [collective for collective in matched_collectives(trace) if _moves_bytes(collective)]
    # The described cluster chooses the algorithm, and all runs of a collective keep it: times of different algorithms
    # could not be split into overheads, latencies and transfer.
    described = [run_alone(collective, trace, cluster) for collective in recorded]
    algorithms = [algorithm for _, algorithm in described]
    timed = _split_times(recorded, algorithms, trace, cluster)
    try:
        fits = leave_one_out(timed)
        fits_with_rates = leave_one_out(timed, rates=True)
        fit = fit_overheads(timed)
    except ValueError as error:
        raise UsageError(f"{trace.path}: {error}") from None
    rows = []
    for number, collective in enumerate(recorded):
        fitted = with_overheads(cluster, fits[number].op_overhead, fits[number].latency_factor)
        left_out_s, _ = run_alone(collective, trace, fitted, algorithms[number])
        rows.append(
            Predicted(
                recorded=collective,
                algorithm=algorithms[number],
                timed=timed[number],
                described_s=described[number][0],
                left_out_s=left_out_s,
                rates_fitted_s=fits_with_rates[number].seconds(timed[number]),
            )
        )
    return Held(tuple(rows), fit, with_overheads(cluster, fit.op_overhead, fit.latency_factor))


def _split_times(recorded: Sequence[Matched], algorithms: Sequence[str], trace: Trace, cluster: Cluster) -> list[Timed]:
    """The measured time of each collective, with its simulated latency and transfer time on `cluster`."""
    no_overhead = with_overheads(cluster, op_overhead=0.0, latency_factor=1.0)
    no_latency = with_overheads(cluster, op_overhead=0.0, latency_factor=0.0)
    timed = []
    for collective, algorithm in zip(recorded, algorithms, strict=True):
        with_latency_s, _ = run_alone(collective, trace, no_overhead, algorithm)
        wire_s, _ = run_alone(collective, trace, no_latency, algorithm)
        timed.append(
            Timed(
                measured_s=1e-6 * collective.transfer_us,
                latency_s=with_latency_s - wire_s,
                wire_s=wire_s,
            )
        )
    return timed


def with_overheads(cluster: Cluster, op_overhead: float, latency_factor: float) -> Cluster:
    """Return the cluster with another overhead of a call [s], its latencies multiplied, and no overhead of messages."""
    transport = replace(cluster.transport, op_overhead=op_overhead, message_overhead=0.0, nccl=None)
    return replace(scaled(cluster, "latency", latency_factor), transport=transport)


def run_alone(collective: Matched, trace: Trace, cluster: Cluster, algorithm: str = "auto") -> tuple[float, str]:
    """Return the seconds of a collective on an idle cluster, all ranks starting together, and its algorithm."""
    tasks = []
    for rank, op in sorted(collective.ops.items()):
        task = collective_task(
            collective.collective,
            float(op.bytes),
            name=collective.name,
            group=collective.group,
            phase=op.phase,
            splits=op.splits,
        )
        tasks.append(((rank,), task))
    groups = {collective.group: trace.header.groups[collective.group]}
    workload = collectives_at_once(tasks, groups, trace.header.world_size, name=collective.name)
    record = simulate(cluster, workload, {collective.collective: algorithm}, routed=RouteCache(cluster))
    seconds = max(span.end for span in record.spans) - max(span.start for span in record.spans)
    return seconds, record.spans[0].algorithm or algorithm


def _moves_bytes(collective: Matched) -> bool:
    if collective.collective is Collective.BARRIER or collective.transfer_us <= 0:
        return False
    return any(op.bytes for op in collective.ops.values())
