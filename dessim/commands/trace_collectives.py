"""The collectives of a recorded job, each predicted without its own measurement.

With NCCL, the cluster's transport predicts them: nothing is fitted to the recording. With another transport the rates
are the cluster's, the overhead of a call and a factor for the latencies are fitted (dessim.calibrate.recorded), and
each collective is predicted from a fit to all the others.

The predicted time is that of the transfer, from the last rank's start to the last rank's end; waiting for a late rank
does not count, because the network does not cause it. Profilers record NCCL's kernels, without their launch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from dessim.calibrate.recorded import Overheads, Timed, fit_overheads, leave_one_out
from dessim.calibrate.spreads import LeftOut, spread_of
from dessim.cluster import Cluster
from dessim.cluster.scaled import scaled
from dessim.cluster.spread import Spread
from dessim.commands.support.recorded import options_of
from dessim.commands.support.spreads import bar_of, servers_of
from dessim.errors import UsageError
from dessim.results.error_bar import ErrorBar
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.io import Trace
from dessim.trace.matched import Matched, matched_collectives
from dessim.trace.schema import Collective
from dessim.workload.one_collective import collective_task, collectives_at_once


@dataclass(frozen=True, slots=True)
class PredictedCollective:
    """One recorded collective and its predictions, in seconds.

    `described_s`: from the cluster's description. `predicted_s`: the same with NCCL, otherwise from a fit to all other
    collectives. `rates_fitted_s`: from such a fit that also fits the rates; None with NCCL. `bar`: the interval of
    `predicted_s`.
    """

    recorded: Matched
    algorithm: str
    described_s: float
    predicted_s: float
    rates_fitted_s: float | None = None
    bar: ErrorBar | None = None

    @property
    def measured_s(self) -> float:
        """The recorded transfer."""
        return 1e-6 * self.recorded.transfer_us

    @property
    def error(self) -> float:
        """`predicted_s` over the measured time, minus 1."""
        return self.predicted_s / self.measured_s - 1

    @property
    def size(self) -> int:
        """S in bytes, the largest of all ranks."""
        return max(op.bytes for op in self.recorded.ops.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        waiting_us = list(self.recorded.waiting_us.values())
        return {
            "step": self.recorded.step,
            "name": self.recorded.name,
            "collective": str(self.recorded.collective),
            "algorithm": self.algorithm,
            "ranks": len(self.recorded.ops),
            "bytes": self.size,
            "measured_s": self.measured_s,
            "waiting_median_s": 1e-6 * median(waiting_us),
            "waiting_max_s": 1e-6 * max(waiting_us),
            "described_s": self.described_s,
            "predicted_s": self.predicted_s,
            "interval": self.bar.to_json(self.predicted_s) if self.bar else None,
            "error": self.error,
            "rates_fitted_s": self.rates_fitted_s,
        }


@dataclass(frozen=True, slots=True)
class PredictedTrace:
    """The collectives of a trace. `fit`: a fit to all of them, whose costs `cluster` has; None: it is as described."""

    rows: tuple[PredictedCollective, ...]
    cluster: Cluster
    fit: Overheads | None = None

    @property
    def median_error(self) -> float:
        """Median of the absolute errors of `predicted_s`."""
        return median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """The largest absolute error of `predicted_s`."""
        return max(abs(row.error) for row in self.rows)

    @property
    def covered(self) -> float | None:
        """The share of the measured times within their intervals; None where a spread is not known."""
        inside = []
        for row in self.rows:
            if row.bar is None:
                return None
            low, high = row.bar.interval(row.predicted_s)
            inside.append(low <= row.measured_s <= high)
        return sum(inside) / len(inside)

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""

        def errors(predicted: Sequence[float | None]) -> dict[str, float]:
            pairs = zip(predicted, self.rows, strict=True)
            absolute = [abs(p / row.measured_s - 1) for p, row in pairs if p is not None]
            return {"median": median(absolute), "worst": max(absolute)}

        of_method = {"described": errors([row.described_s for row in self.rows])}
        if self.fit is not None:
            of_method["left_out"] = errors([row.predicted_s for row in self.rows])
            of_method["rates_fitted"] = errors([row.rates_fitted_s for row in self.rows])
        return {
            "cluster": self.cluster.name,
            "n": len(self.rows),
            "op_overhead_s": self.fit.op_overhead if self.fit else None,
            "latency_factor": self.fit.latency_factor if self.fit else None,
            "median_error": self.median_error,
            "worst_error": self.worst_error,
            "covered": self.covered,
            "errors": of_method,
            "collectives": [row.to_json() for row in self.rows],
        }


def predict_collectives(trace: Trace, cluster: Cluster) -> PredictedTrace:
    """Predict every collective of `trace` that moves bytes.

    Raises UsageError where there are none, or too few for a fit, and CapacityError where the cluster is too small.
    """
    cluster.require(trace.header.world_size)
    recorded = [collective for collective in matched_collectives(trace) if _moves_bytes(collective)]
    if not recorded:
        raise UsageError(f"{trace.path}: no collective moves bytes")
    if cluster.transport.nccl is None:
        return _fitted(recorded, trace, cluster)
    rows = []
    for collective in recorded:
        seconds, algorithm = run_alone(collective, trace, cluster)
        if collective.collective is Collective.ALL_TO_ALL:
            rest = after_last_start(collective, trace.header.groups[collective.group], seconds)
            seconds, _ = run_alone(rest, trace, cluster)
        rows.append(_with_bar(PredictedCollective(collective, algorithm, seconds, seconds), None, cluster))
    return PredictedTrace(tuple(rows), cluster)


def after_last_start(collective: Matched, members: Sequence[int], seconds: float) -> Matched:
    """An uneven all_to_all without the messages that had arrived when the last rank started.

    These are the messages of pairs of ranks that had both started at least `seconds` earlier, the time of the whole.
    """
    if any(op.splits is None for op in collective.ops.values()):
        return collective
    late = {rank for rank, us in collective.waiting_us.items() if 1e-6 * us < seconds}
    ops = {}
    for rank, op in collective.ops.items():
        sizes = zip(op.splits or (), members, strict=True)
        splits = tuple(size if rank in late or member in late else 0 for size, member in sizes)
        ops[rank] = replace(op, splits=splits, bytes=sum(splits))
    return replace(collective, ops=ops)


def _fitted(recorded: Sequence[Matched], trace: Trace, cluster: Cluster) -> PredictedTrace:
    """Each collective predicted from a fit to the others, and a spread from the errors of the others."""
    # The described cluster chooses the algorithm, and all runs of a collective keep it: times of different algorithms
    # could not be split into overheads, latencies and transfer.
    described = [run_alone(collective, trace, cluster) for collective in recorded]
    algorithms = [algorithm for _, algorithm in described]
    timed = split_times(recorded, algorithms, trace, cluster)
    try:
        fits = leave_one_out(timed)
        fits_with_rates = leave_one_out(timed, rates=True)
        fit = fit_overheads(timed)
    except ValueError as error:
        raise UsageError(f"{trace.path}: {error}") from None
    rows = []
    for number, collective in enumerate(recorded):
        fitted = with_overheads(cluster, fits[number].op_overhead, fits[number].latency_factor)
        predicted_s, _ = run_alone(collective, trace, fitted, algorithms[number])
        with_rates_s = fits_with_rates[number].seconds(timed[number])
        rows.append(
            PredictedCollective(collective, algorithms[number], described[number][0], predicted_s, with_rates_s)
        )
    errors = [_left_out(row, cluster) for row in rows]
    barred = [
        _with_bar(row, spread_of([*errors[:number], *errors[number + 1 :]]), cluster) for number, row in enumerate(rows)
    ]
    return PredictedTrace(tuple(barred), with_overheads(cluster, fit.op_overhead, fit.latency_factor), fit)


def _left_out(row: PredictedCollective, cluster: Cluster) -> LeftOut:
    error = math.log(row.predicted_s / row.measured_s)
    return LeftOut(str(row.recorded.collective), row.size, servers_of(cluster, list(row.recorded.ops)) > 1, error)


def _with_bar(row: PredictedCollective, spread: Spread | None, cluster: Cluster) -> PredictedCollective:
    return replace(
        row, bar=bar_of(cluster, row.recorded.collective, row.size, gpus=list(row.recorded.ops), spread=spread)
    )


def split_times(recorded: Sequence[Matched], algorithms: Sequence[str], trace: Trace, cluster: Cluster) -> list[Timed]:
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
    record = simulate(
        cluster,
        workload,
        {collective.collective: algorithm},
        routed=RouteCache(cluster),
        options=options_of(trace.header),
    )
    seconds = max(span.end for span in record.spans) - max(span.start for span in record.spans)
    return seconds, record.spans[0].algorithm or algorithm


def _moves_bytes(collective: Matched) -> bool:
    if collective.collective is Collective.BARRIER or collective.transfer_us <= 0:
        return False
    return any(op.bytes for op in collective.ops.values())
