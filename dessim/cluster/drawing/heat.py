"""Utilisation of links as colours and widths of lines.

The colours are one hue from light to dark, which readers with any colour vision can order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

WIRE = "#9aa5b1"
"""Colour of links that carried nothing, or whose utilisation is unknown."""
EDGES = (0.1, 0.25, 0.5, 0.75)
"""Utilisations at which the colour changes."""
# The upper five of ColorBrewer's seven-class OrRd; its lightest two are hard to see on white paper.
STEPS = ("#fdbb84", "#fc8d59", "#ef6548", "#d7301f", "#990000")
WIDTHS = (1.3, 1.6, 2.0, 2.4, 2.8)
STEP_LABELS = ("< 10 %", "10–25 %", "25–50 %", "50–75 %", "≥ 75 %")
_OPPOSITE_SUFFIX = {"_up": "_down", "_plus": "_minus"}


@dataclass(frozen=True, slots=True)
class Heat:
    """Mean utilisation of each link class over a run, 0 to 1; classes that are not listed carried nothing.

    `shares` is None where a drawing shows no run; all lines then have the same colour.
    """

    shares: Mapping[str, float] | None = None

    def share(self, *kinds: str) -> float:
        """Utilisation of the busiest of `kinds`; a kind also stands for its opposite direction, if it has one."""
        shares = self.shares or {}
        return max(shares.get(name, 0.0) for kind in kinds for name in (kind, _opposite(kind)))

    def colour(self, kind: str) -> str:
        """Line colour of a link class."""
        share = self.share(kind)
        return STEPS[bisect_right(EDGES, share)] if share > 0 else WIRE

    def width(self, kind: str) -> float:
        """How many times as wide as an unused link one of this class is drawn: busy links stand out by width too."""
        share = self.share(kind)
        return WIDTHS[bisect_right(EDGES, share)] if share > 0 else 1.0

    def percent(self, *kinds: str) -> str:
        """Utilisation of the busiest of `kinds` as text."""
        share = self.share(*kinds)
        return f"{100 * share:.1f} %" if share > 0 else "0 %"


def _opposite(kind: str) -> str:
    """The link class of the opposite direction; a class without one, which holds both, is returned unchanged."""
    for suffix, opposite in _OPPOSITE_SUFFIX.items():
        if kind.endswith(suffix):
            return kind.removesuffix(suffix) + opposite
    return kind
