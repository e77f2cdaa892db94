"""How many different ids a batch holds.

Strategies that move rows pay for each *unique* id, so the count decides who wins. Ids follow Zipf's law here
(probability of the r-th most frequent id proportional to r**-skew over a finite vocabulary): a model of click logs,
not a measurement; a trace's own counts replace it where one is given (`HeapsLaw`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_EXACT_RANKS = 4096  # the most frequent ids one by one, the rest in geometric bins
_BINS = 4000


def expected_unique(draws: float, vocabulary: float, skew: float, beyond: float = 0.0) -> float:
    """Expected number of different ids among `draws` independent Zipf draws: sum over ids of 1 - (1 - p)**draws.

    Ids beyond the 4,096 most frequent are taken in geometric bins of equal probability each (relative error < 1e-3).
    `beyond` leaves out that many of the most frequent ids: what is counted are the draws' ids that are not among them.
    """
    if draws <= 0:
        return 0.0
    head = np.arange(1.0, min(vocabulary, _EXACT_RANKS) + 1)
    ranks, edges = head, np.arange(len(head) + 1) + 0.5
    if vocabulary > _EXACT_RANKS:
        tail = np.geomspace(_EXACT_RANKS + 0.5, vocabulary + 0.5, _BINS + 1)
        ranks = np.concatenate([head, np.sqrt(tail[:-1] * tail[1:])])
        edges = np.concatenate([edges, tail[1:]])
    counts = np.diff(edges)
    weights = ranks**-skew
    p = weights / float((weights * counts).sum())
    # log1p keeps the tail, where p is far below the float's resolution at 1.
    counts = np.diff(np.maximum(edges, beyond + 0.5))
    return float((counts * -np.expm1(draws * np.log1p(-np.minimum(p, 1 - 1e-16)))).sum())


@dataclass(frozen=True, slots=True)
class HeapsLaw:
    """unique = coefficient * draws**exponent, through what a trace measured (Heaps' law)."""

    coefficient: float
    exponent: float

    @classmethod
    def through(cls, draws_a: float, unique_a: float, draws_b: float, unique_b: float) -> HeapsLaw:
        """The law through two measured points; with equal draws nothing is known of growth, so exponent 1."""
        if min(draws_a, draws_b, unique_a, unique_b) <= 0:
            return cls(0.0, 1.0)
        exponent = 1.0
        if not math.isclose(draws_a, draws_b):
            exponent = math.log(unique_b / unique_a) / math.log(draws_b / draws_a)
        exponent = min(max(exponent, 0.0), 1.0)
        return cls(unique_a / draws_a**exponent, exponent)

    def unique(self, draws: float) -> float:
        return float(min(self.coefficient * draws**self.exponent, draws))
