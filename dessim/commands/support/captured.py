"""Compute times of a strategy's ops at any number of ranks, extrapolated from traces of runs on few ranks.

The time of an op is modelled as seconds = a + b * work: a is the cost of a call, and `work` is the roofline of the
device that ran the op, without launches, evaluated by the op's formulas. Two traces of different sizes determine a and
b (non-negative least squares of the relative errors). Where the work of an op is the same in both traces, its time is
constant.

The time of an op is its thread's CPU time (`Op.cpu_us`, where the trace has it), the median over ranks and steps.
Waiting for a core that other ranks use is left to the simulator (dessim.sim.core.cores). CPU time of a step that falls
between the traced ops is added to the step's first op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from dessim.calibrate.fit import nonnegative
from dessim.cluster import Gpu
from dessim.sim.core.device import roofline
from dessim.trace.io import Trace
from dessim.trace.schema import PREFETCH, Header, Kind
from dessim.workload.model import parse_model
from dessim.workload.owners import MEAN, Owner
from dessim.workload.plan import OwnerRole, Plan, PlannedOp
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of

Symbols = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Capture:
    """A condensed trace: its header, and the median seconds of each compute op over ranks and steps.

    `between` are the seconds of CPU time that a step spends between its ops. `spread` is the standard
    deviation of an op's time as a share of the typical one, the median over all ops.
    """

    header: Header
    seconds: Mapping[str, float]
    between: float = 0.0
    spread: float = 0.0

    @classmethod
    def of_trace(cls, trace: Trace, work_s: float = 0.0) -> Capture:
        """Condense a trace. `work_s` is the CPU time of a whole step in seconds, 0 where it was not counted."""
        samples: dict[str, list[list[float]]] = {}  # by op, one list of steps for each rank
        for ops in trace.ranks:
            of_rank: dict[str, list[float]] = {}
            for op in ops:
                if op.kind is Kind.COMPUTE:
                    of_rank.setdefault(op.name, []).append((op.cpu_us or op.dur_us) * 1e-6)
            for name, times in of_rank.items():
                samples.setdefault(name, []).append(times)
        owned = _owned_ops(trace.header)
        seconds = {name: _typical(by_rank, owned=name in owned) for name, by_rank in samples.items()}
        spreads = [_spread(by_rank, owned=name in owned) for name, by_rank in samples.items() if seconds[name] > 0]
        return cls(
            header=trace.header,
            seconds=seconds,
            between=max(work_s - sum(seconds.values()), 0.0),
            spread=median(spreads) if spreads else 0.0,
        )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Capture:
        """The inverse of `to_json`."""
        return cls(
            header=Header.from_json(raw["header"]),
            seconds={str(name): float(time) for name, time in raw["seconds"].items()},
            between=float(raw.get("between", 0.0)),
            spread=float(raw.get("spread", 0.0)),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in seconds."""
        return {
            "header": self.header.to_json(),
            "seconds": dict(self.seconds),
            "between": self.between,
            "spread": self.spread,
        }


@dataclass(frozen=True, slots=True)
class Captured:
    """One or more captures of the same strategy on a device.

    `job` has the sizes of the last capture, the largest. `runs` holds the symbols and op times of each capture.
    """

    job: Job
    runs: tuple[tuple[Symbols, Mapping[str, float]], ...]
    gpu: Gpu
    between: float = 0.0
    spread: float = 0.0

    @classmethod
    def of(cls, captures: Sequence[Capture], gpu: Gpu) -> Captured:
        """Combine captures; the roofline of `gpu` measures the work of an op. Raises TraceError."""
        jobs = [Job.of_header(capture.header) for capture in captures]
        runs = tuple((job.measured_symbols, capture.seconds) for job, capture in zip(jobs, captures, strict=True))
        return cls(
            job=jobs[-1],
            runs=runs,
            gpu=replace(gpu, launch_overhead=0.0),
            between=median(capture.between for capture in captures),
            spread=median(capture.spread for capture in captures),
        )

    def durations(self, plan: Plan, symbols: Symbols, owner: Owner = MEAN) -> dict[str, float]:
        """Return the seconds of each compute op of `plan`, a plan of the captured strategy, by name.

        They are those of a worker that owns the shares of `owner`.
        """
        durations = {
            op.name: self.seconds(op, owner.symbols(symbols, op.role)) for op in plan.ops if op.kind is Kind.COMPUTE
        }
        in_step = [op.name for op in plan.ops if op.name in durations and op.stream != PREFETCH]
        if in_step:
            durations[in_step[0]] += self.between
        return durations

    def seconds(self, op: PlannedOp, symbols: Symbols) -> float:
        """Return the seconds of one compute op; 0 for an op that no capture has."""
        samples = [(self._work(op, measured), times[op.name]) for measured, times in self.runs if op.name in times]
        if not samples:
            return 0.0  # no rank ran this op
        work, seconds = np.array(samples).T
        # Dividing both sides by the measured seconds makes the residuals relative errors.
        terms = np.column_stack([np.ones(len(work)), work]) / seconds[:, None]
        call, rate = nonnegative(terms, np.ones(len(work)))
        return float(call + rate * self._work(op, symbols))

    def _work(self, op: PlannedOp, symbols: Symbols) -> float:
        """Seconds of an op by the roofline, without launches."""
        flops = op.flops.evaluate(symbols)
        memory_bytes = op.mem.evaluate(symbols)
        return roofline(self.gpu, flops, memory_bytes, kernels=0.0)


def _owned_ops(header: Header) -> frozenset[str]:
    """The compute ops whose work follows what a rank owns, by name; none in a trace without a model."""
    if not header.model:
        return frozenset()
    plan = plan_of(header.strategy, parse_model(header.model, Path("header.json")))
    return frozenset(op.name for op in plan.ops if op.kind is Kind.COMPUTE and op.role is not OwnerRole.NONE)


def _typical(by_rank: Sequence[Sequence[float]], *, owned: bool) -> float:
    """The seconds of an op [ranks][steps]: the median, or the mean of ranks that own different shares.

    Formulas state means over workers, and the median of a few unequal workers differs from their mean.
    """
    return mean(median(times) for times in by_rank) if owned else median(chain.from_iterable(by_rank))


def _spread(by_rank: Sequence[Sequence[float]], *, owned: bool) -> float:
    """The standard deviation of an op's seconds, as a share of `_typical`; within ranks if these own unequal shares."""
    typical = _typical(by_rank, owned=owned)
    if owned:
        by_rank = [[time - mean(times) for time in times] for times in by_rank]
    return float(np.std(list(chain.from_iterable(by_rank)))) / typical
