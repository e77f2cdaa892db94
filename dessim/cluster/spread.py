"""How far measured times spread around predicted ones, by op, size and place.

A spread is the standard deviation of log(measured / predicted), as for a normal distribution: the 80th percentile of
its absolute values over 1.28. Readings of clusters that were left out of a fit give it, or those of a user's
calibration.

On more GPUs than the readings had, the parts of a collective that travel at once are smaller, so that its time depends
on latencies as that of a smaller size does. Its spread is then that of the size in proportion: 64 MiB on 1,024 GPUs
spread as 2 MiB on 32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

BANDS = (64 << 10, 8 << 20)
"""Sizes up to 64 KiB, up to 8 MiB, and above, in bytes: errors are stated for these three bands."""
BAND_NAMES = ("up to 64 KiB", "to 8 MiB", "above 8 MiB")
Z80 = 1.2815515655446004
"""80 % of a normal distribution is within this many standard deviations of its mean."""
OTHER = "other"
"""Ops that are not listed."""
MOST_GPUS = 32
"""The most GPUs of the readings that gave the shipped spreads."""
_LEFT = 0.6
"""The share of a spread that a calibration on fewer GPUs leaves: studies/published/hold_out.py, test (b)."""
Bands = tuple[float, float, float]


def band(size: float) -> int:
    """The band of a size: 0, 1 or 2."""
    return sum(size > limit for limit in BANDS)


def interval(seconds: float, spread: float) -> tuple[float, float]:
    """The ends of the 80 % interval of a predicted time [s] with this spread."""
    factor = math.exp(Z80 * spread)
    return seconds / factor, seconds * factor


@dataclass(frozen=True, slots=True)
class Spread:
    """Spreads of collectives by op, for each band: `inside` a server and `between` servers. Ops not listed: `OTHER`.

    The readings that gave them had up to `gpus` GPUs. On more GPUs a calibration says less: an op then has at least
    `_LEFT` of the spread in `more`, that of the transport before its calibration.
    """

    inside: Mapping[str, Bands] = field(default_factory=dict)
    between: Mapping[str, Bands] = field(default_factory=dict)
    gpus: int = MOST_GPUS
    more: Spread | None = None

    def bands(self, op: str, *, across: bool) -> Bands | None:
        """The spreads of `op` by band on as many GPUs as the readings had; None where they are not known."""
        table = self.between if across else self.inside
        return table.get(op, table.get(OTHER))

    def of(self, op: str, size: float, *, across: bool, gpus: int = 1) -> tuple[str, float] | None:
        """A name for what is uncertain, and the spread of `op` on `size` bytes; None where it is not known.

        The op runs on `gpus` GPUs; `across`: whether they are in several servers.
        """
        bands = self.bands(op, across=across)
        if bands is None:
            return None
        number = band(size * min(1.0, self.gpus / gpus))
        scale = f" per {self.gpus} GPUs" if gpus > self.gpus else ""
        name = f"{op} {BAND_NAMES[number]}{scale} {'between servers' if across else 'inside a server'}"
        beyond = self.more.of(op, size, across=across, gpus=gpus) if self.more is not None and scale else None
        return name, max(bands[number], 0.0 if beyond is None else _LEFT * beyond[1])
