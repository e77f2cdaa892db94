"""Fit what software costs to the collectives of a recorded job: few of them, each of its own size, none repeated.

Every collective is one equation,

    seconds = op_overhead + latency_factor * latency_s + wire_s

with what the simulator says it takes on the described cluster: `latency_s` in the latencies of the links as they are,
`wire_s` in bytes. Rates stay those of the cluster's description: a recorded step has too few large collectives to tell
a rate from the time of a call. Least squares on relative errors, coefficients not negative. `leave_one_out` predicts
each collective from a fit to all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dessim.calibrate.fit import nonnegative


@dataclass(frozen=True, slots=True)
class Timed:
    """A measured collective and its parts as simulated, seconds all of them."""

    measured_s: float
    latency_s: float
    wire_s: float


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds a collective call costs, and what the latencies of the described links are to be multiplied by.

    `wire_factor` is 1 unless rates were fitted too: what the times of bytes are to be multiplied by.
    """

    op_overhead: float
    latency_factor: float
    wire_factor: float = 1.0

    def seconds(self, timed: Timed) -> float:
        """What a collective takes."""
        return self.op_overhead + self.latency_factor * timed.latency_s + self.wire_factor * timed.wire_s


def fit_overheads(samples: Sequence[Timed], rates: bool = False) -> Overheads:
    """Fit to samples, with `rates` also one factor for the rates of all links.

    Raises ValueError when there are fewer samples than coefficients.
    """
    wanted = 3 if rates else 2
    if len(samples) < wanted:
        raise ValueError(f"{len(samples)} collectives are too few to fit {wanted} coefficients; record more of them")
    measured = np.array([s.measured_s for s in samples])
    wire = np.array([s.wire_s for s in samples])
    columns = [np.ones(len(samples)), np.array([s.latency_s for s in samples]), *([wire] if rates else ())]
    right = np.ones(len(samples)) if rates else 1 - wire / measured
    found = nonnegative(np.column_stack(columns) / measured[:, None], right)
    return Overheads(*(float(value) for value in found))


def leave_one_out(samples: Sequence[Timed], rates: bool = False) -> list[Overheads]:
    """For each sample the fit to all others. Raises ValueError when there are too few."""
    return [fit_overheads([*samples[:i], *samples[i + 1 :]], rates) for i in range(len(samples))]
