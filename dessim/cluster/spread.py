"""How far measured times spread around predicted ones, by op, size and place.

A spread is the standard deviation of log(measured / predicted), as for a normal distribution: the 80th percentile of
its absolute values over 1.28. Readings of clusters that were left out of a fit give it, or those of a user's
calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BANDS = (64 << 10, 8 << 20)
"""Sizes up to 64 KiB, up to 8 MiB, and above, in bytes: errors are stated for these three bands."""
BAND_NAMES = ("up to 64 KiB", "to 8 MiB", "above 8 MiB")
Z80 = 1.2815515655446004
"""80 % of a normal distribution is within this many standard deviations of its mean."""
OTHER = "other"
"""Ops that are not listed."""
Bands = tuple[float, float, float]


def band(size: float) -> int:
    """The band of a size: 0, 1 or 2."""
    return sum(size > limit for limit in BANDS)


@dataclass(frozen=True, slots=True)
class Spread:
    """Spreads of collectives by op, for each band: `inside` a server and `between` servers. Ops not listed: `OTHER`."""

    inside: Mapping[str, Bands] = field(default_factory=dict)
    between: Mapping[str, Bands] = field(default_factory=dict)

    def of(self, op: str, size: float, *, across: bool) -> tuple[str, float] | None:
        """A name for what is uncertain, and the spread of `op` on `size` bytes; None where it is not known.

        `across`: whether the op's GPUs are in several servers.
        """
        table = self.between if across else self.inside
        bands = table.get(op, table.get(OTHER))
        if bands is None:
            return None
        number = band(size)
        return f"{op} {BAND_NAMES[number]} {'between servers' if across else 'inside a server'}", bands[number]
