"""What workers and parameter servers do for each other, on what consistency, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.arrays import Ints
from dessim.sim.core.recorder import Record


@dataclass(frozen=True, slots=True)
class StepTraffic:
    """What a worker and each server do for each other in a step: bytes a message, and seconds of a server's thread.

    `gather` serves a pull and `merge` a push; `apply` [s] is the update that follows the last push of a step (sync).
    """

    request: float
    reply: float
    push: float
    gather: float
    merge: float
    apply: float = 0.0


@dataclass(frozen=True, slots=True)
class Consistency:
    """`sync`, or not, with the `staleness` that is allowed, in steps (None: any). `threads` serve at a time.

    `jitter` is the standard deviation of the logarithm of what every worker's compute takes longer by in each step:
    lognormal of median 1, drawn by `seed` (0: all alike).
    """

    sync: bool = True
    staleness: int | None = None
    threads: int = 1
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ServersResult:
    """How a run went. `record` has the spans of all workers; `start` to `end` [s] is the time looked at.

    In it `steps` steps of workers ended, each on every server with a `staleness` [steps x servers] in versions. `lead`
    is the most steps that a worker was ahead of the slowest, `busy` the share of the time that servers' threads worked,
    and `bytes_by_link` what each link class carried while every worker made one step.
    """

    record: Record
    start: float
    end: float
    steps: int
    staleness: Ints
    lead: int
    busy: float
    bytes_by_link: Mapping[str, float]

    @property
    def step_time(self) -> float:
        """Seconds in which every worker makes one step, on the average."""
        return (self.end - self.start) * self.record.n_ranks / self.steps
