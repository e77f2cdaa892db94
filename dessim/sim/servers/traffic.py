"""Input and output of a simulation of parameter servers: messages and service times, consistency, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from dessim.arrays import Ints, significant
from dessim.sim.core.recorder import Record

DIGITS = 12
"""Digits of sizes and times with which servers are simulated; the last bits of a float depend on the processor."""


@dataclass(frozen=True, slots=True)
class Call:
    """A message of `size` bytes to one server, served in `service` seconds, and a `reply` of that many bytes."""

    size: float
    service: float
    reply: float = 0.0

    @property
    def moved(self) -> float:
        """Bytes in both directions."""
        return self.size + self.reply


@dataclass(frozen=True, slots=True)
class StepTraffic:
    """The exchange of one worker with each server in a step: bytes per message, and seconds of a server's thread.

    A pull is a `request` and its `reply`, served in `gather` seconds. A `push` is served in `merge` seconds.
    Synchronous servers spend `apply` seconds on the update after the last push of a step.
    """

    request: float
    reply: float
    push: float
    gather: float
    merge: float
    apply: float = 0.0

    @property
    def rounded(self) -> StepTraffic:
        """The same to twelve digits: the order in which requests arrive may not depend on the processor."""
        return StepTraffic(*(significant(value, DIGITS) for value in astuple(self)))

    @property
    def pull(self) -> Call:
        return Call(self.request, self.gather, self.reply)

    @property
    def pushing(self) -> Call:
        return Call(self.push, self.merge)


@dataclass(frozen=True, slots=True)
class Consistency:
    """Which steps may overlap, and how workers vary.

    Workers step together if `sync`; otherwise each may be at most `staleness` steps ahead of the slowest (None: no
    bound). A server has `threads` threads. The compute of each step takes longer by a lognormal factor with median 1;
    `jitter` is the standard deviation of its logarithm, drawn with `seed` (0: all steps are equal).
    """

    sync: bool = True
    staleness: int | None = None
    threads: int = 1
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ServersResult:
    """The measured part of a run, from `start` to `end` [s].

    `record` has the spans of all workers. `steps` steps of workers ended in that time. `staleness` [steps x servers]
    counts, in versions, the updates of others that a server applied between a worker's pull and its push. `lead` is the
    most steps that a worker was ahead of the slowest, `busy` the share of the time in which servers' threads worked,
    and `bytes_by_link` the bytes that each link class carries while every worker makes one step. `versions` has a row
    for each step of the whole run, in the order of its pushes at server 0: the updates applied there before the step's
    pull, and before its push.
    """

    record: Record
    start: float
    end: float
    steps: int
    staleness: Ints
    versions: Ints
    lead: int
    busy: float
    bytes_by_link: Mapping[str, float]

    @property
    def step_time(self) -> float:
        """Mean seconds in which every worker makes one step."""
        return (self.end - self.start) * self.record.n_ranks / self.steps
