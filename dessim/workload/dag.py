"""A job as the simulator sees it: for each class of identical ranks, a graph of ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dessim.trace.schema import Collective, Kind, Phase

WORLD = "world"  # the group of all ranks


@dataclass(frozen=True, slots=True)
class Loads:
    """An all_to_all whose ranks send, or receive, different totals, each in equal parts.

    `totals` [group size]: the bytes that each member sends to all members, itself included; with `received`, the bytes
    that it receives from all members.
    """

    totals: tuple[float, ...]
    received: bool

    def sent_by(self, member: int) -> tuple[float, ...]:
        """The bytes that `member` sends to each member [group size]."""
        n = len(self.totals)
        return tuple(total / n for total in self.totals) if self.received else (self.totals[member] / n,) * n


@dataclass(frozen=True, slots=True)
class Task:
    """One op to simulate.

    `deps`: positions in the class's task list, all smaller than the task's own.
    `delay`: seconds between the end of the last dependency and the launch (host work that no op accounts for).
    `duration`: seconds that a compute task takes.
    `size`: S [bytes] of a collective (dessim.trace.schema).
    `splits` [group size]: bytes that the rank sends to each member of the group, where these differ.
    `loads`: what every member sends or receives, where totals differ between members. It replaces `size` and `splits`.

    Tasks of different ranks belong to the same collective if `group`, `step` and `name` agree.
    """

    name: str
    step: int
    phase: Phase
    kind: Kind
    stream: str
    deps: tuple[int, ...] = ()
    delay: float = 0.0
    duration: float = 0.0
    collective: Collective | None = None
    group: str | None = None
    size: float = 0.0
    splits: tuple[float, ...] | None = None
    loads: Loads | None = None

    @property
    def largest_size(self) -> float:
        """The largest S [bytes] of a member of the collective."""
        return max(self.size, *self.loads.totals) if self.loads is not None else self.size


@dataclass(frozen=True, slots=True)
class RankClass:
    """Ranks that run the same tasks at the same times."""

    ranks: Sequence[int]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A whole job. `groups` maps the name of a group to its global ranks, in group order."""

    name: str
    n_ranks: int
    classes: tuple[RankClass, ...]
    groups: Mapping[str, Sequence[int]]
    steps: tuple[int, ...]

    def one_by_one(self) -> Workload:
        """The same job with each rank in its own class, in the order of ranks."""
        tasks_by_rank = {rank: c.tasks for c in self.classes for rank in c.ranks}
        classes = tuple(RankClass((rank,), tasks) for rank, tasks in sorted(tasks_by_rank.items()))
        return replace(self, classes=classes)

    def uneven(self, spread: float, seed: int = 0) -> Workload:
        """The same job with each rank in its own class and compute times that vary between ops and ranks.

        Each duration is multiplied by an independent log-normal factor of mean 1 and standard deviation `spread`.
        """
        sigma = float(np.sqrt(np.log1p(spread**2)))
        rng = np.random.default_rng(seed)

        def vary(tasks: Sequence[Task]) -> tuple[Task, ...]:
            factors = np.exp(sigma * rng.standard_normal(len(tasks)) - sigma**2 / 2).tolist()
            return tuple(
                replace(task, duration=task.duration * factor) for task, factor in zip(tasks, factors, strict=True)
            )

        one_by_one = self.one_by_one()
        return replace(one_by_one, classes=tuple(replace(c, tasks=vary(c.tasks)) for c in one_by_one.classes))
