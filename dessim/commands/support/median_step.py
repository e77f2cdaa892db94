"""The median step of a training whose ranks are simulated one by one: several steps in a row, and several runs.

Ranks start together in a simulation; after a few steps they have drifted apart, as in training. An exchange can unfold
in several orders, and a small difference decides which. So where compute times vary, runs with other compute times are
added until the median of all steps is precise enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dessim.results.metrics import Breakdown, breakdown, step_windows
from dessim.sim.core.recorder import Record
from dessim.sim.progress import Progress
from dessim.workload.dag import Workload

STEPS = 9
FEW_STEPS = 4
"""For a rough answer, where many plans are screened."""
MOST_RUNS = 5
_PRECISION = 0.02
"""Runs are added until the relative standard error of the median is below this."""

Run = Callable[[Workload, Progress], Record]
"""Simulates a workload."""


@dataclass(frozen=True, slots=True)
class MedianStep:
    """`seconds`: the median over steps and runs. `record`: the run whose step number `step` is closest to it."""

    seconds: float
    record: Record
    step: int

    def breakdown(self) -> Breakdown:
        """The parts of that step, in proportion to the median."""
        return breakdown(self.record, self.step).lasting(self.seconds)


def median_step(
    workload: Workload, variation: float, run: Run, progress: Progress | None = None, most_runs: int = MOST_RUNS
) -> MedianStep:
    """Run `workload`, which has several steps, with the `variation` of compute times (`Workload.uneven`).

    A step lasts from the end of the step before to its own end, so the first one does not count.
    """
    timed_steps: list[tuple[float, Record, int]] = []
    progress = progress or Progress()
    runs = most_runs if variation else 1
    for seed in range(runs):
        record = run(workload.uneven(variation, seed), progress.within(seed, runs, "runs"))
        ends = {step: end for step, (_, end) in step_windows(record).items()}
        timed_steps += [(ends[step] - ends[before], record, step) for before, step in pairwise(ends)]
        if _error_of_median([seconds for seconds, _, _ in timed_steps]) < _PRECISION:
            break
    median = float(np.median([seconds for seconds, _, _ in timed_steps]))
    _, record, step = min(timed_steps, key=lambda one: abs(one[0] - median))
    return MedianStep(median, record, step)


def _error_of_median(steps: Sequence[float]) -> float:
    """The standard error of the median of step times, relative to it, as if they were normally distributed."""
    return float(math.sqrt(math.pi / 2 / len(steps)) * np.std(steps) / np.median(steps))
