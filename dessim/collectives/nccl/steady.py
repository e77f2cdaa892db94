"""Times that never fall with the size, as a user expects of them.

Where NCCL changes its algorithm, protocol or chunks, its model may step down a little, as NCCL itself does at times.
Here a time lies on a line between those of the powers of two around the size, each at least that of smaller ones.
"""

from __future__ import annotations

import math
from dataclasses import replace

from dessim.collectives.nccl.model import Override, Run, run
from dessim.collectives.nccl.protocols import Values
from dessim.collectives.nccl.setup import Setup
from dessim.trace.schema import Collective


class SteadyRuns:
    """Collectives `op` of any size on a set-up, one call or many in a row; times at powers of two are kept."""

    def __init__(self, op: Collective, setup: Setup, c: Values, override: Override, repeated: bool = False) -> None:
        self._op = op
        self._setup = setup
        self._values = c
        self._override = override
        self._repeated = repeated
        self._powers: list[float] = []

    def run(self, size: float) -> Run:
        """The collective on S = `size` bytes. Raises UsageError as `model.run` does."""
        found = self._raw(size)
        if size < 1:
            return replace(found, microseconds=self._at(0))
        power = math.floor(math.log2(size))
        share = size / 2.0**power - 1
        return replace(found, microseconds=self._at(power) * (1 - share) + self._at(power + 1) * share)

    def _at(self, power: int) -> float:
        while len(self._powers) <= power:
            before = self._powers[-1] if self._powers else 0.0
            self._powers.append(max(before, self._raw(2.0 ** len(self._powers)).microseconds))
        return self._powers[power]

    def _raw(self, size: float) -> Run:
        return run(self._op, size, self._setup, self._values, self._override, self._repeated)
