"""Replay: a recorded trace on a described cluster, and the error of the predicted step time.

Compute takes its recorded time; collectives take the simulator's. The prediction is compared with two measurements:
the recorded steps themselves (*self-replay*, which checks the model of what happened) and other steps of the same run
that ran without the recorder (the error of the prediction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dessim.cluster import Cluster
from dessim.commands.support.recorded import options_of
from dessim.commands.support.spreads import spreads_on
from dessim.results.error_bar import ErrorBar, error_bar
from dessim.results.metrics import Breakdown, breakdown, step_times
from dessim.results.timeline import Counter, Slice
from dessim.sim.core.recorder import Record
from dessim.sim.engine import NetworkName, simulate
from dessim.sim.progress import Progress
from dessim.trace.io import Trace
from dessim.trace.schema import Collective, Header, Op
from dessim.workload.from_trace import workload_from_trace


@dataclass(frozen=True, slots=True)
class Replay:
    """A replayed trace: `predicted`, `recorded` and `plain` (unrecorded) step times in seconds, one per step.

    Averages are means, because a run is the sum of its steps.
    """

    cluster: str
    ranks: int
    strategy: str
    record: Record
    breakdown: Breakdown
    predicted: tuple[float, ...]
    recorded: tuple[float, ...]
    plain: tuple[float, ...]
    bar: ErrorBar | None = None

    @property
    def predicted_step_s(self) -> float:
        return fmean(self.predicted)

    @property
    def measured_step_s(self) -> float | None:
        """Mean of the steps that ran without the recorder; None where the trace has none."""
        return fmean(self.plain) if self.plain else None

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured, minus 1."""
        return None if self.measured_step_s is None else self.predicted_step_s / self.measured_step_s - 1

    @property
    def self_replay_error(self) -> float | None:
        """Predicted over recorded, minus 1; None where the trace has no step times."""
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
            "interval": self.bar.to_json(self.predicted_step_s) if self.bar else None,
            **self.breakdown.to_json(),
        }

    def step_rows(self) -> list[dict[str, Any]]:
        """Predicted and recorded seconds of each step, for figures."""
        return [
            {"step": i, "predicted_s": p, "measured_s": m}
            for i, (p, m) in enumerate(zip(self.predicted, self.recorded, strict=False))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """A trace to replay on a cluster, rank r on GPU r.

    `algorithms` fixes the algorithm of a collective; the others use `auto`.
    `folding=False` simulates identical flows one by one; the result is the same.
    `network` is the model of the network (dessim.sim.engine.simulate).
    `stretch` returns the factor by which a compute op takes longer than recorded.
    """

    trace: Trace
    cluster: Cluster
    algorithms: Mapping[Collective, str] | None = None
    folding: bool = True
    network: NetworkName = "fluid"
    stretch: Callable[[Op], float] | None = None


def replay(
    trace: Trace,
    cluster: Cluster,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    progress: Progress | None = None,
) -> Replay:
    """Replay a trace: `run_replay` of the `ReplayRequest` that these arguments make."""
    request = ReplayRequest(trace=trace, cluster=cluster, algorithms=algorithms, folding=folding)
    return run_replay(request, progress)


def run_replay(request: ReplayRequest, progress: Progress | None = None) -> Replay:
    """Replay a trace. Raises CapacityError where the cluster is too small, and OutOfTime when `progress` ends it."""
    header = request.trace.header
    workload = workload_from_trace(request.trace, request.stretch)
    record = simulate(
        request.cluster,
        workload,
        request.algorithms,
        folding=request.folding,
        options=options_of(header) if request.network == "fluid" else None,
        progress=progress,
        network=request.network,
    )
    split = breakdown(record)
    return Replay(
        cluster=request.cluster.name,
        ranks=header.world_size,
        strategy=header.strategy,
        record=record,
        breakdown=split,
        bar=error_bar(split.critical_path, spreads_on(request.cluster, workload.groups, measured=True)),
        predicted=tuple(step_times(record)),
        recorded=tuple(us * 1e-6 for us in header.step_us.get("recorded", ())),
        plain=tuple(us * 1e-6 for us in header.step_us.get("plain", ())),
    )


def kept_times(header: Header, cluster: Cluster) -> str:
    """A sentence for a trace of CPUs on a cluster of GPUs, whose compute keeps its recorded times; empty otherwise."""
    gpus = [
        gpu.name for gpu, _ in cluster.devices(range(min(header.world_size, cluster.n_gpus))) if gpu.kernels is not None
    ]
    if not header.device.startswith("cpu") or not gpus:
        return ""
    return (
        f"the trace was recorded on a CPU: its compute keeps those times on {gpus[0]}; "
        "`dessim project` predicts those of GPUs"
    )


def counters_of(record: Record) -> Iterator[Counter]:
    """The utilisation of each link class over time, in per cent of its capacity, as counters of the timeline."""
    load = record.load
    for kind in load.rate:
        # Counters keep their last value, so they end at 0.
        shares = [*(100 * load.share(kind)).tolist(), 0.0]
        for at, percent in zip(load.time.tolist(), shares, strict=True):
            yield Counter("network", f"{kind} (% of capacity)", at, {"busy": round(percent, 6)})


def timeline_of(record: Record) -> Iterator[Slice]:
    """The record's spans as slices: a process for each class of ranks, a thread for each stream. Barriers are left out.

    Times are in seconds.
    """
    names = [f"rank {r[0]}" if len(r) == 1 else f"ranks {r[0]}-{r[-1]} (identical)" for r in record.classes]
    for span in sorted(record.spans, key=lambda s: (s.rank_class, s.start)):
        if span.collective is Collective.BARRIER:
            continue
        args: dict[str, Any] = {"step": span.step, "bound by": span.bound_by}
        if span.collective is not None:
            args |= {
                "bytes": round(span.size),
                "algorithm": span.algorithm or "none",
                "waited for others (us)": round((span.moving_since - span.start) * 1e6, 3),
            }
        yield Slice(
            process=names[span.rank_class],
            thread=span.stream,
            name=span.name,
            category=str(span.collective or span.kind),
            start_s=span.start,
            dur_s=span.end - span.start,
            args=args,
        )
