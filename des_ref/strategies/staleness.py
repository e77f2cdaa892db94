"""Bounded staleness: which worker may pull, and how stale its values are. Bookkeeping only, one object a server.

A worker's clock is the number of its pushes that have been applied. It may pull while it is at most `bound` steps ahead
of the slowest worker that still trains (stale synchronous parallel; Ho et al., NeurIPS 2013), so a pull lacks at most
the last `bound` pushes of any worker, and none of its own pushes. With bound 0 no worker starts a step before all
pushes of the previous step are applied. With one worker, any bound is equivalent to one process.

    staleness of a pull    steps by which the slowest worker was behind; at most the bound
    missed of a push       pushes of other workers applied between its pull and itself, which its gradient ignores
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class StalenessStats:
    """Sums and maxima over `pulls` pulls: their staleness, and the pushes that were missed."""

    pulls: int = 0
    stale: int = 0
    most_stale: int = 0
    missed: int = 0
    most_missed: int = 0

    def add(self, other: StalenessStats) -> None:
        self.pulls += other.pulls
        self.stale += other.stale
        self.missed += other.missed
        self.most_stale = max(self.most_stale, other.most_stale)
        self.most_missed = max(self.most_missed, other.most_missed)

    def to_json(self) -> dict[str, float]:
        """Means and maxima, in steps and pushes."""
        pulls = max(self.pulls, 1)
        return {
            "mean": self.stale / pulls,
            "max": self.most_stale,
            "missed_mean": self.missed / pulls,
            "missed_max": self.most_missed,
        }


@dataclass(slots=True)
class Clocks:
    """The clocks of `workers` workers under a `bound`, in steps."""

    workers: int
    bound: int
    stats: StalenessStats = field(default_factory=StalenessStats)
    _pushes: list[int] = field(init=False)  # applied pushes, by worker
    _training: list[bool] = field(init=False)
    _pushes_at_pull: list[int] = field(init=False)  # pushes of all workers applied when the worker pulled

    def __post_init__(self) -> None:
        self._pushes = [0] * self.workers
        self._pushes_at_pull = [0] * self.workers
        self._training = [True] * self.workers

    def ahead(self, worker: int) -> int:
        """Steps by which `worker` is ahead of the slowest one that still trains."""
        slowest = min((p for p, on in zip(self._pushes, self._training, strict=True) if on), default=0)
        return max(self._pushes[worker] - slowest, 0)

    def may_pull(self, worker: int) -> bool:
        return self.ahead(worker) <= self.bound

    def pull(self, worker: int) -> None:
        """Record a pull that is being answered."""
        stale = self.ahead(worker)
        self._pushes_at_pull[worker] = sum(self._pushes)
        self.stats.add(StalenessStats(pulls=1, stale=stale, most_stale=stale))

    def push(self, worker: int) -> None:
        """Record a push that has been applied."""
        missed = sum(self._pushes) - self._pushes_at_pull[worker]
        self.stats.add(StalenessStats(missed=missed, most_missed=missed))
        self._pushes[worker] += 1

    def finish(self, worker: int) -> None:
        """From now on no other worker waits for this one."""
        self._training[worker] = False

    @property
    def all_finished(self) -> bool:
        return not any(self._training)
