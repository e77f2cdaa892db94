"""A job on a shared cluster: the request (`Tenant`), its progress over many steps, and its result."""

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
    """A job that arrives at `arrival` [s] and runs `workload` `steps` times.

    `placement` is a policy (dessim.cluster.placement), with its `seed`, or the job's GPUs in rank order.
    """

    name: str
    workload: Workload
    arrival: float = 0.0
    steps: int = 1
    placement: str | Sequence[int] = "packed"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class JobResult:
    """A job's `arrival`, `start` and `end` [s], and the seconds of a step alone on the same GPUs (`alone_s`).

    `records` are its different steps, each with the number of steps that were equal to it.
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
        """Seconds from the job's arrival to its start."""
        return self.start - self.arrival

    @property
    def step_time_s(self) -> float:
        """Mean seconds per step."""
        return (self.end - self.start) / self.steps

    @property
    def slowdown(self) -> float:
        """Mean step time over that of the job alone on the same GPUs."""
        return self.step_time_s / self.alone_s


@dataclass(slots=True, eq=False)
class SimulatedStep:
    """A step that was simulated, and the number of steps that are equal to it, itself included."""

    record: Record
    count: int = 1


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job that holds its GPUs, a `Member` of its interference group.

    `used` [n_links] are the links that its messages cross; `done` steps have ended and `run` is the one in progress.
    `holds` are the intervals (from, length) [s] in which that step was held.
    """

    tenant: Tenant
    gpus: Ints
    network: FluidNetwork
    alone_s: float
    used: Bools
    start: float
    done: int = 0
    run: JobRun | None = None
    simulated: list[SimulatedStep] = field(default_factory=list)
    holds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return self.tenant.steps

    def credit(self, periods: int, steps_per_period: int, at: float, held_s: float) -> None:
        """See `dessim.sim.jobs.steady_state.Member`."""
        self.done += periods * steps_per_period
        for step in self.simulated[-steps_per_period:]:
            step.count += periods
        if self.run is not None:
            self.holds.append((at, held_s))

    def end_step(self, record: Record) -> None:
        """A simulated step has ended."""
        self.done += 1
        self.simulated.append(SimulatedStep(_without_holds(record, self.holds)))
        self.holds = []

    def result(self, end: float) -> JobResult:
        """The result of the job, which ends at `end` [s]."""
        return JobResult(
            name=self.tenant.name,
            gpus=self.gpus,
            steps=self.tenant.steps,
            arrival=self.tenant.arrival,
            start=self.start,
            end=end,
            alone_s=self.alone_s,
            records=tuple((step.record, step.count) for step in dict.fromkeys(self.simulated)),
        )


def _without_holds(record: Record, holds: list[tuple[float, float]]) -> Record:
    """The record of a step as if it had not been held."""
    for at, held_s in reversed(holds):
        record.end -= held_s
        record.spans = [_moved_ahead(span, at, held_s) for span in record.spans]
    return record


def _moved_ahead(span: Span, at: float, held_s: float) -> Span:
    """A span in which everything after `at` happens `held_s` seconds earlier."""
    start, moving_since, end = (
        time - held_s if time > at else time for time in (span.start, span.moving_since, span.end)
    )
    # Only compute is held while it runs. A collective is never held in progress, only the ranks that wait for it.
    was_held = span.collective is None and span.start <= at < span.end
    parts = {bound: seconds - held_s for bound, seconds in span.parts.items()} if was_held else span.parts
    return replace(span, start=start, moving_since=moving_since, end=end, parts=parts)
