"""Compute times of a strategy's ops, from traces of runs on few ranks to any number of them.

Each op's time is what a call costs and what its work costs, seconds = a + b * work, with the op's work by its formulas:
the roofline of the device they ran on, launches aside. Two traces of different size give a and b (least squares on
relative errors, neither negative); where an op's work is the same in both, its time is, too.

Of an op counts the time that its thread ran (`Op.cpu_us`, where the trace has it), median over ranks and steps: what
it had to wait for a core that others use is the simulator's to add (dessim.sim.core.cores). What a step's threads work
between ops, as by a count of the whole step that nobody traced, is added to its first op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from dessim.calibrate.fit import nonnegative
from dessim.cluster import Gpu
from dessim.sim.core.device import roofline
from dessim.trace.io import Trace
from dessim.trace.schema import PREFETCH, Header, Kind
from dessim.workload.plan import Plan, PlannedOp
from dessim.workload.scale import Job

Symbols = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Capture:
    """A trace, made small: its header, of each compute op the median seconds over ranks and steps, and the seconds that
    a step works `between` ops. `spread` is an op's standard deviation over its median, the median of all ops'."""

    header: Header
    seconds: Mapping[str, float]
    between: float = 0.0
    spread: float = 0.0

    @classmethod
    def of_trace(cls, trace: Trace, work_s: float = 0.0) -> Capture:
        """`work_s`: seconds that a step works in all, 0 where nobody counted."""
        found: dict[str, list[float]] = {}
        for ops in trace.ranks:
            for op in ops:
                if op.kind is Kind.COMPUTE:
                    found.setdefault(op.name, []).append((op.cpu_us or op.dur_us) * 1e-6)
        seconds = {name: median(each) for name, each in found.items()}
        spreads = [float(np.std(each)) / seconds[name] for name, each in found.items() if seconds[name] > 0]
        spread = median(spreads) if spreads else 0.0
        return cls(trace.header, seconds, max(work_s - sum(seconds.values()), 0.0), spread)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Capture:
        seconds = {str(k): float(v) for k, v in raw["seconds"].items()}
        more = {key: float(raw.get(key, 0.0)) for key in ("between", "spread")}
        return cls(Header.from_json(raw["header"]), seconds, **more)

    def to_json(self) -> dict[str, Any]:
        more = {"between": self.between, "spread": self.spread}
        return {"header": self.header.to_json(), "seconds": dict(self.seconds), **more}


@dataclass(frozen=True, slots=True)
class Captured:
    """Captures of one strategy on a device, at least one; `job` has the sizes of the last, the largest."""

    job: Job
    runs: tuple[tuple[Symbols, Mapping[str, float]], ...]
    gpu: Gpu
    between: float = 0.0
    spread: float = 0.0

    @classmethod
    def of(cls, captures: Sequence[Capture], gpu: Gpu) -> Captured:
        """`gpu` gives the roofline that work is measured by. Raises TraceError."""
        jobs = [Job.of_header(capture.header) for capture in captures]
        runs = tuple((job.measured_symbols, capture.seconds) for job, capture in zip(jobs, captures, strict=True))
        between, spread = (median(getattr(c, key) for c in captures) for key in ("between", "spread"))
        return cls(jobs[-1], runs, replace(gpu, launch_overhead=0.0), between, spread)

    def durations(self, plan: Plan, symbols: Symbols) -> dict[str, float]:
        """Seconds of each compute op of `plan`, a plan of the captured strategy."""
        found = {op.name: self.seconds(op, symbols) for op in plan.ops if op.kind is Kind.COMPUTE}
        first = next((op.name for op in plan.ops if op.name in found and op.stream != PREFETCH), None)
        if first is not None:
            found[first] += self.between
        return found

    def seconds(self, op: PlannedOp, symbols: Symbols) -> float:
        """Seconds of one compute op."""
        seen = [(self._work(op, own), seconds[op.name]) for own, seconds in self.runs if op.name in seconds]
        if not seen:
            return 0.0  # work that no rank had to do
        work, seconds = np.array(seen).T
        terms = np.column_stack([np.ones(len(work)), work]) / seconds[:, None]
        call, rate = nonnegative(terms, np.ones(len(work)))
        return float(call + rate * self._work(op, symbols))

    def _work(self, op: PlannedOp, symbols: Symbols) -> float:
        return roofline(self.gpu, op.flops.evaluate(symbols), op.mem.evaluate(symbols), 0.0)
