"""Bounded staleness: who may pull, and how stale what it gets is. Pure bookkeeping, one object a server.

A worker's clock is how many of its pushes have been applied. It may pull while it is at most `bound` ahead of the
slowest worker that still trains (stale synchronous parallel; Ho et al., NeurIPS 2013), so that what it reads lacks at
most the last `bound` pushes of anybody. It always reads its own. With bound 0 nobody starts a step before everybody's
push of the step before; with one worker any bound is that of one process.

    staleness of a pull    steps that the slowest worker was behind: at most the bound
    missed of a push       pushes of others applied between its pull and it: what its gradient did not know of
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Of so many pulls (and their pushes): sum and largest staleness, sum and largest missed."""

    pulls: int = 0
    stale: int = 0
    most_stale: int = 0
    missed: int = 0
    most_missed: int = 0

    def add(self, other: Tally) -> None:
        self.pulls += other.pulls
        self.stale += other.stale
        self.missed += other.missed
        self.most_stale = max(self.most_stale, other.most_stale)
        self.most_missed = max(self.most_missed, other.most_missed)

    def to_json(self) -> dict[str, float]:
        pulls = max(self.pulls, 1)
        return {
            "mean": self.stale / pulls,
            "max": self.most_stale,
            "missed_mean": self.missed / pulls,
            "missed_max": self.most_missed,
        }


@dataclass(slots=True)
class Clocks:
    """Clocks of `workers` workers under a `bound`."""

    workers: int
    bound: int
    tally: Tally = field(default_factory=Tally)
    _pushes: list[int] = field(init=False)  # applied, by worker
    _training: list[bool] = field(init=False)
    _seen: list[int] = field(init=False)  # pushes applied when the worker pulled

    def __post_init__(self) -> None:
        self._pushes, self._seen = [0] * self.workers, [0] * self.workers
        self._training = [True] * self.workers

    def ahead(self, worker: int) -> int:
        """Steps that `worker` is ahead of the slowest one."""
        slowest = min((p for p, on in zip(self._pushes, self._training, strict=True) if on), default=0)
        return max(self._pushes[worker] - slowest, 0)

    def may_pull(self, worker: int) -> bool:
        return self.ahead(worker) <= self.bound

    def pull(self, worker: int) -> None:
        stale = self.ahead(worker)
        self._seen[worker] = sum(self._pushes)
        self.tally.add(Tally(1, stale, stale))

    def push(self, worker: int) -> None:
        missed = sum(self._pushes) - self._seen[worker]
        self.tally.add(Tally(missed=missed, most_missed=missed))
        self._pushes[worker] += 1

    def finish(self, worker: int) -> None:
        """Nobody waits for this worker any longer."""
        self._training[worker] = False

    @property
    def all_finished(self) -> bool:
        return not any(self._training)
