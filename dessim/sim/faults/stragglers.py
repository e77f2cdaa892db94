"""Stragglers: GPUs that compute slower than others, all the time or by chance of the machine room.

Each rank has a factor that its compute takes longer by: given for single ranks, drawn for all from a lognormal
distribution of median 1, or both, multiplied. Ranks with equal factors stay one class, so a few slow GPUs cost a few
classes; drawn factors are all different, and so is every rank. Left out: factors that change from op to op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.arrays import Floats
from dessim.workload.dag import RankClass, Task, Workload


@dataclass(frozen=True, slots=True)
class Stragglers:
    """`slow` gives the factor of single ranks; `sigma` is the standard deviation of the logarithm of what is drawn for
    every rank with `seed` (0: nothing is)."""

    slow: Mapping[int, float] = field(default_factory=dict)
    sigma: float = 0.0
    seed: int = 0

    def factors(self, n: int) -> Floats:
        """Of ranks 0..n-1 [n]; a rank's factor is the same in a job of any size."""
        factors = np.exp(self.sigma * np.random.default_rng(self.seed).standard_normal(n))
        for rank, factor in self.slow.items():
            if rank < n:
                factors[rank] *= factor
        return factors

    def slowed(self, workload: Workload) -> Workload:
        """The workload with its compute slowed, its classes split by factor."""
        factors = self.factors(workload.n_ranks)
        classes: list[RankClass] = []
        for rank_class in workload.classes:
            ranks = np.asarray(rank_class.ranks, dtype=np.int64)
            values, first, which = np.unique(factors[ranks], return_index=True, return_inverse=True)
            for number in np.argsort(first).tolist():
                tasks = _slower(rank_class.tasks, float(values[number]))
                classes.append(RankClass(tuple(ranks[which == number].tolist()), tasks))
        return replace(workload, classes=tuple(classes))


def _slower(tasks: tuple[Task, ...], factor: float) -> tuple[Task, ...]:
    return tasks if factor == 1 else tuple(replace(task, duration=task.duration * factor) for task in tasks)
