"""Times that never fall with the size, as a user expects of them.

Where NCCL changes its algorithm, protocol or chunks, its modelled time may drop a little as the size grows, as NCCL's
own times sometimes do. Here the time is interpolated between the powers of two around the size, and the time of each
power is at least that of smaller ones. Only the time that short messages alone pay (`Run.injected`) is added
afterwards: on Slingshot longer messages are much faster.
"""

from __future__ import annotations

import math
from dataclasses import replace

from dessim.cluster.curves import Curve
from dessim.collectives.nccl.model import Override, Run, run
from dessim.collectives.nccl.protocols import Values
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.timing import Timing
from dessim.trace.schema import Collective


class SteadyRuns:
    """Collectives `op` of any size on a set-up, timed as `timing` says. Times at powers of two are computed once.

    `curve` is a factor on the times, which a calibration measured for the op on this set-up.
    """

    def __init__(
        self,
        op: Collective,
        setup: Setup,
        c: Values,
        *,
        override: Override,
        timing: Timing = Timing.ALONE,
        curve: Curve | None = None,
    ) -> None:
        self._op = op
        self._setup = setup
        self._values = c
        self._override = override
        self._timing = timing
        self._curve = curve
        self._powers: list[float] = []

    def run(self, size: float) -> Run:
        """The collective on S = `size` bytes. Raises UsageError as `model.run` does."""
        raw = self._raw(size)
        if size < 1:
            return replace(raw, microseconds=self._at(0) + raw.injected)
        power = math.floor(math.log2(size))
        share = size / 2.0**power - 1
        steady = self._at(power) * (1 - share) + self._at(power + 1) * share
        return replace(raw, microseconds=steady + raw.injected)

    def _at(self, power: int) -> float:
        while len(self._powers) <= power:
            before = self._powers[-1] if self._powers else 0.0
            raw = self._raw(2.0 ** len(self._powers))
            self._powers.append(max(before, raw.microseconds - raw.injected))
        return self._powers[power]

    def _raw(self, size: float) -> Run:
        raw = run(self._op, size, self._setup, self._values, self._override, self._timing)
        if self._curve is None:
            return raw
        factor = self._curve.factor(size)
        return replace(raw, microseconds=factor * raw.microseconds, injected=factor * raw.injected)
