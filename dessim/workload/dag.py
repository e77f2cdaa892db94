"""A job as the simulator sees it: for each class of identical ranks, ops with what they wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dessim.trace.schema import Collective, Kind, Phase

WORLD = "world"  # the group of all ranks


@dataclass(frozen=True, slots=True)
class Task:
    """One op to simulate.

    `deps` are positions in the class's task list, all smaller than the task's own. `delay` is time in seconds between
    the last dependency and the launch (host work nobody recorded). A compute task takes `duration` seconds; a
    collective moves `size` bytes (S, dessim.trace.schema), or `splits` bytes to each member of its group where given.
    Collectives of different ranks are the same one when `group`, `step` and `name` agree.
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


@dataclass(frozen=True, slots=True)
class RankClass:
    """Ranks that do exactly the same at the same time."""

    ranks: Sequence[int]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A whole job. `groups` maps a name to its global ranks, in group order."""

    name: str
    n_ranks: int
    classes: tuple[RankClass, ...]
    groups: Mapping[str, Sequence[int]]
    steps: tuple[int, ...]

    def one_by_one(self) -> Workload:
        """The same with each rank in a class of its own, in the order of ranks."""
        each = sorted(((rank, c.tasks) for c in self.classes for rank in c.ranks), key=lambda one: one[0])
        return replace(self, classes=tuple(RankClass((rank,), tasks) for rank, tasks in each))

    def uneven(self, spread: float, seed: int = 0) -> Workload:
        """The same one by one, with compute that takes more or less than it should, another in each op of each rank:
        log-normal, with a standard deviation of `spread` times the mean, which stays."""
        sigma, rng = float(np.sqrt(np.log1p(spread**2))), np.random.default_rng(seed)

        def vary(tasks: Sequence[Task]) -> tuple[Task, ...]:
            factors = np.exp(sigma * rng.standard_normal(len(tasks)) - sigma**2 / 2).tolist()
            return tuple(replace(task, duration=task.duration * by) for task, by in zip(tasks, factors, strict=True))

        alone = self.one_by_one()
        return replace(alone, classes=tuple(replace(c, tasks=vary(c.tasks)) for c in alone.classes))
