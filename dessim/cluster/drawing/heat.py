"""How busy links were, as the colour of their lines: one hue from light to dark, which every kind of eye can order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

WIRE = "#9aa5b1"
"""A line of which nothing is known, or that carried nothing."""
EDGES = (0.1, 0.25, 0.5, 0.75)
# The upper five of ColorBrewer's seven-class OrRd: its lightest two would vanish on white paper.
STEPS = ("#fdbb84", "#fc8d59", "#ef6548", "#d7301f", "#990000")
STEP_LABELS = ("< 10 %", "10–25 %", "25–50 %", "50–75 %", "≥ 75 %")
_BACK = {"_up": "_down", "_plus": "_minus"}


@dataclass(frozen=True, slots=True)
class Heat:
    """`shares` is the mean use of each link class, 0 to 1; classes that are not in it carried nothing."""

    shares: Mapping[str, float] | None = None
    """None where no run is drawn: every line is then alike."""

    def share(self, *kinds: str) -> float:
        """The busiest of `kinds`; a kind that has a way back stands for both ways."""
        shares = self.shares or {}
        return max(shares.get(way, 0.0) for kind in kinds for way in (kind, _way_back(kind)))

    def colour(self, kind: str) -> str:
        share = self.share(kind)
        return STEPS[bisect_right(EDGES, share)] if share > 0 else WIRE

    def percent(self, *kinds: str) -> str:
        share = self.share(*kinds)
        return f"{100 * share:.1f} %" if share > 0 else "0 %"


def _way_back(kind: str) -> str:
    for there, back in _BACK.items():
        if kind.endswith(there):
            return kind.removesuffix(there) + back
    return kind
