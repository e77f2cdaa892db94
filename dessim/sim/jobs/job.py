"""A job that comes to a cluster, finished for its steps, and leaves: what is asked, how far it is, how it fared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dessim.arrays import Bools, Ints
from dessim.sim.core.recorder import Record, Span
from dessim.sim.engine import JobRun
from dessim.sim.fluid.model import FluidNetwork
from dessim.workload.dag import Workload


@dataclass(frozen=True, slots=True)
class Tenant:
    """A job to come at `arrival` [s]: `steps` times `workload`. `placement` is a policy, or its GPUs in rank order."""

    name: str
    workload: Workload
    arrival: float = 0.0
    steps: int = 1
    placement: str | Sequence[int] = "packed"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job fared: when it came, started and was over [s], and what a step takes alone on the same GPUs.

    `records` are its different steps, each with how many there were like it.
    """

    name: str
    gpus: Ints
    steps: int
    arrival: float
    start: float
    end: float
    alone_s: float
    records: tuple[tuple[Record, int], ...]

    @property
    def wait_s(self) -> float:
        return self.start - self.arrival

    @property
    def step_time_s(self) -> float:
        """Seconds a step, on average."""
        return (self.end - self.start) / self.steps

    @property
    def slowdown(self) -> float:
        return self.step_time_s / self.alone_s


@dataclass(slots=True, eq=False)
class SimulatedStep:
    """A step that was simulated, and how many there were like it."""

    record: Record
    count: int = 1


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job that has its GPUs."""

    tenant: Tenant
    gpus: Ints
    network: FluidNetwork
    alone_s: float
    used: Bools
    start: float
    done: int = 0
    run: JobRun | None = None
    seen: list[SimulatedStep] = field(default_factory=list)
    holds: list[tuple[float, float]] = field(default_factory=list)  # of it: from when, how long

    @property
    def steps(self) -> int:
        return self.tenant.steps

    def credit(self, times: int, period: int, at: float, span: float) -> None:
        """See `dessim.sim.jobs.steady_state.Member`."""
        self.done += times * period
        for kept in self.seen[-period:]:
            kept.count += times
        if self.run is not None:
            self.holds.append((at, span))

    def keep(self, record: Record) -> None:
        """A step is over."""
        self.done += 1
        self.seen.append(SimulatedStep(_without(record, self.holds)))
        self.holds = []

    def result(self, end: float) -> JobResult:
        records = tuple((kept.record, kept.count) for kept in dict.fromkeys(self.seen))
        job = self.tenant
        return JobResult(job.name, self.gpus, job.steps, job.arrival, self.start, end, self.alone_s, records)


def _without(record: Record, holds: list[tuple[float, float]]) -> Record:
    """The record as if it had not been held."""
    for at, span in reversed(holds):
        record.end -= span
        record.spans = [_earlier(one, at, span) for one in record.spans]
    return record


def _earlier(one: Span, at: float, span: float) -> Span:
    """An op of which what came after `at` comes `span` seconds earlier."""
    start, moving, end = (time - span if time > at else time for time in (one.start, one.moving, one.end))
    # A collective under way is never held, only who waits for it.
    held = one.collective is None and one.start <= at < one.end
    parts = {bound: seconds - span for bound, seconds in one.parts.items()} if held else one.parts
    return replace(one, start=start, moving=moving, end=end, parts=parts)
