"""Fit software overheads to the collectives of a recorded job, which are few, of different sizes, and not repeated.

Every collective is one equation,

    seconds = op_overhead + latency_factor * latency_s + wire_s

in which the simulator supplies the two parts of its time on the described cluster: `latency_s` in link latencies, and
`wire_s` on the wire. Rates are taken from the cluster's description, because a recorded step has too few large
collectives to separate rates from overheads. The fit is least squares on relative errors, with no coefficient below
zero. `leave_one_out` predicts each collective from a fit to all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dessim.calibrate.fit import nonnegative


@dataclass(frozen=True, slots=True)
class Timed:
    """The measured seconds of a collective, and the simulated seconds in latencies and on the wire."""

    measured_s: float
    latency_s: float
    wire_s: float


@dataclass(frozen=True, slots=True)
class Overheads:
    """The overhead of a collective call in seconds, and factors for simulated latencies and times on the wire.

    `wire_factor` is 1 unless rates were fitted too.
    """

    op_overhead: float
    latency_factor: float
    wire_factor: float = 1.0

    def seconds(self, timed: Timed) -> float:
        """The predicted seconds of a collective."""
        return self.op_overhead + self.latency_factor * timed.latency_s + self.wire_factor * timed.wire_s


def fit_overheads(samples: Sequence[Timed], rates: bool = False) -> Overheads:
    """Fit overheads to `samples`; with `rates` also fit `wire_factor`.

    Raises ValueError if there are fewer samples than coefficients.
    """
    n_coefficients = 3 if rates else 2
    if len(samples) < n_coefficients:
        raise ValueError(
            f"{len(samples)} collectives are too few to fit {n_coefficients} coefficients; record more of them"
        )
    measured = np.array([s.measured_s for s in samples])
    wire = np.array([s.wire_s for s in samples])
    columns = [np.ones(len(samples)), np.array([s.latency_s for s in samples]), *([wire] if rates else ())]
    unexplained = np.ones(len(samples)) if rates else 1 - wire / measured
    coefficients = nonnegative(np.column_stack(columns) / measured[:, None], unexplained)
    return Overheads(*(float(value) for value in coefficients))


def leave_one_out(samples: Sequence[Timed], rates: bool = False) -> list[Overheads]:
    """For each sample the fit to all other samples. Raises ValueError if there are too few."""
    return [fit_overheads([*samples[:i], *samples[i + 1 :]], rates) for i in range(len(samples))]
