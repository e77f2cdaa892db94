"""How many different ids a batch holds.

Strategies that move rows pay for each *unique* id, so the count decides who wins. Ids follow Zipf's law here
(probability of the r-th most frequent id proportional to r**-skew over a finite vocabulary): a model of click logs,
not a measurement; a trace's own counts replace it where one is given (`HeapsLaw`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EXACT_RANKS = 4096  # the most frequent ids one by one, the rest in geometric bins
_BINS = 4000
_EXACT_BALLS = 200
_ENDLESS = 1e18  # draws


def expected_unique(draws: float, vocabulary: float, skew: float, beyond: float = 0.0, offset: float = 0.0) -> float:
    """Expected number of different ids among `draws` independent Zipf draws: sum over ids of 1 - (1 - p)**draws.

    Ids beyond the 4,096 most frequent are taken in geometric bins of equal probability each (relative error < 1e-3).
    `beyond` leaves out that many of the most frequent ids: what is counted are the draws' ids that are not among them.
    With `offset` the r-th id's probability goes with (r + offset)**-skew (Mandelbrot's form of the law).
    """
    if draws <= 0:
        return 0.0
    p = _probabilities(vocabulary, skew, offset)
    counts = _counts(vocabulary, beyond)
    # log1p keeps the tail, where p is far below the float's resolution at 1.
    return float((counts * -np.expm1(draws * np.log1p(-np.minimum(p, 1 - 1e-16)))).sum())


def _edges(vocabulary: float) -> NDArray[np.float64]:
    """Where bins of ranks end, the lower end first."""
    edges: NDArray[np.float64] = np.arange(math.floor(min(vocabulary, _EXACT_RANKS)) + 1.0) + 0.5
    if vocabulary <= _EXACT_RANKS:
        return edges
    tail = np.geomspace(_EXACT_RANKS + 0.5, vocabulary + 0.5, _BINS + 1)
    return np.asarray(np.concatenate([edges, tail[1:]]), dtype=np.float64)


def _probabilities(vocabulary: float, skew: float, offset: float) -> NDArray[np.float64]:
    """Of one id of each bin: that of the bin's mean rank."""
    edges = _edges(vocabulary)
    exact = min(len(edges) - 1, _EXACT_RANKS)
    ranks = np.concatenate([np.arange(1.0, exact + 1), np.sqrt(edges[exact:-1] * edges[exact + 1 :])])
    weights = (ranks + offset) ** -skew
    return np.asarray(weights / float((weights * np.diff(edges)).sum()))


def _counts(vocabulary: float, beyond: float) -> NDArray[np.float64]:
    """Ids in each bin that are not among the `beyond` most frequent."""
    return np.diff(np.maximum(_edges(vocabulary), beyond + 0.5))


@dataclass(frozen=True, slots=True)
class ZipfLaw:
    """Ids of `fields` fields that are alike, each with its share of the vocabulary; 1: all ids follow one law.

    `offset`: see expected_unique.
    """

    vocabulary: float
    skew: float
    fields: int = 1
    offset: float = 0.0

    def unique(self, draws: float, beyond: float = 0.0) -> float:
        """Expected number of different ids among so many, those left out that are among the `beyond` most frequent."""
        each = (draws / self.fields, self.vocabulary / self.fields, self.skew, beyond / self.fields, self.offset)
        return self.fields * expected_unique(*each)

    def draws_of(self, unique: float) -> float:
        """How many draws hold so many different ids, to 1e-6 of them; infinite for the whole vocabulary."""
        if unique >= self.vocabulary:
            return math.inf
        low, high = 0.0, max(unique, 1.0)
        while self.unique(high) < unique:
            low, high = high, 2 * high
            if high > _ENDLESS:
                return math.inf
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.unique(middle) < unique else (low, middle)
        return high

    def counted(self, draws: float, samples: float, beyond: float = 0.0) -> float:
        """As how many ids a sample's `draws` count, where an id weighs 1 / (its occurrences in all samples): as many of
        equal weight would, (sum w)^2 / sum w^2. Those `beyond` weigh nothing."""
        p = _probabilities(self.vocabulary / self.fields, self.skew, self.offset)
        weights = 1 / np.maximum(1.0, samples * draws / self.fields * p)
        drawn = p * _counts(self.vocabulary / self.fields, beyond / self.fields)
        first, second = float((drawn * weights).sum()), float((drawn * weights**2).sum())
        return draws * first**2 / second if second else 0.0


def largest_share(balls: float, cells: int) -> float:
    """Expected share of `balls` in the fullest of `cells` cells that each falls into by chance.

    Between whole numbers of balls a straight line. Of more than 200 balls each cell's number is taken as a Poisson
    variable of its own.
    """
    if balls <= 1 or cells == 1:
        return 1.0
    low = math.floor(balls)
    at_low, at_high = (_fullest(n, cells) for n in (low, low + 1))
    return (at_low + (balls - low) * (at_high - at_low)) / balls


def _fullest(balls: int, cells: int) -> float:
    """E[max] = sum over k of P(max > k). P(max <= k) is a coefficient: of x^balls in (sum_{j <= k} x^j q_j)^cells over
    that in (sum_j x^j q_j)^cells, with any Poisson q."""
    mean = balls / cells
    j = np.arange(balls + 1.0)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, balls + 1)))])
    q = np.exp(j * math.log(mean) - mean - log_factorial)
    if balls > _EXACT_BALLS:
        return float((1 - np.cumsum(q) ** cells).clip(0).sum())
    whole = math.exp(balls * math.log(balls) - balls - log_factorial[-1])
    largest = 0.0
    for k in range(balls):
        power, result, rest = np.where(j <= k, q, 0.0), np.eye(1, balls + 1)[0], cells
        while rest:
            if rest & 1:
                result = np.convolve(result, power)[: balls + 1]
            power, rest = np.convolve(power, power)[: balls + 1], rest >> 1
        left = 1 - float(result[-1]) / whole
        largest += left
        if left < 1e-12:
            break
    return largest


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
