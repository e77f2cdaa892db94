"""Stragglers: GPUs that compute more slowly than others throughout a run.

The compute of each rank takes longer by a factor: given for single ranks, drawn for all ranks from a lognormal
distribution with median 1, or both, multiplied. Ranks with equal factors remain one rank class, so a few slow GPUs add
a few classes; drawn factors all differ, which puts every rank in its own class. Left out: factors that change per op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.arrays import Floats
from dessim.workload.dag import RankClass, Task, Workload


@dataclass(frozen=True, slots=True)
class Stragglers:
    """`slow` maps single ranks to their factors. `sigma` is the standard deviation of the logarithm of the factors that
    are drawn for all ranks with `seed`; 0 draws none."""

    slow: Mapping[int, float] = field(default_factory=dict)
    sigma: float = 0.0
    seed: int = 0

    def factors(self, n: int) -> Floats:
        """The factors of ranks 0 to n - 1 [n]. A rank has the same factor in a job of any size."""
        factors = np.exp(self.sigma * np.random.default_rng(self.seed).standard_normal(n))
        for rank, factor in self.slow.items():
            if rank < n:
                factors[rank] *= factor
        return factors

    def slowed(self, workload: Workload) -> Workload:
        """The workload with longer compute times, its rank classes split by factor."""
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
