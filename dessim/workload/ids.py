"""The expected number of distinct ids in a batch.

Strategies that move rows pay for each *distinct* id, so this count decides between strategies. Ids follow Zipf's law:
over a finite vocabulary the r-th most frequent id has a probability proportional to r**-skew. That is a model of click
logs, not a measurement. The counts of a trace replace it where one is given (`HeapsLaw`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_EXACT_RANKS = 4096  # most frequent ids that are counted one by one
_TAIL_BINS = 4000  # geometric bins for the less frequent ids
_MAX_EXACT_BALLS = 200  # above it, cells count as independent Poisson variables
_MAX_DRAWS = 1e18  # more count as infinitely many
_NEGLIGIBLE_PROBABILITY = 1e-12  # ends a sum of decreasing probabilities


def expected_unique(draws: float, vocabulary: float, skew: float, beyond: float = 0.0, offset: float = 0.0) -> float:
    """Expected number of distinct ids among `draws` independent Zipf draws: the sum over ids of 1 - (1 - p)**draws.

    Ids beyond the 4,096 most frequent are grouped into geometric bins. All ids of a bin have the same probability
    (relative error < 1e-3).

    `beyond`: the count leaves out this many most frequent ids.
    `offset`: the r-th id's probability is proportional to (r + offset)**-skew (Mandelbrot's form of the law).
    """
    if draws <= 0:
        return 0.0
    bins = IdBins.of(vocabulary, skew, offset)
    return float((bins.beyond(beyond) * bins.expected_present(draws)).sum())


@dataclass(frozen=True, slots=True)
class IdBins:
    """The ids of one Zipf law, most frequent first, in bins of equal probability.

    `edges` [bins + 1] bound the bins' frequency ranks, `p` [bins] is the probability of one id of a bin, and the first
    `single` bins hold one id each.
    """

    edges: NDArray[np.float64]
    p: NDArray[np.float64]
    single: int

    @classmethod
    def of(cls, vocabulary: float, skew: float, offset: float = 0.0) -> IdBins:
        """The bins of `vocabulary` ids whose r-th has a probability proportional to (r + offset)**-skew."""
        return _bins_of(vocabulary, skew, offset)

    @classmethod
    def of_shares(cls, shares: Sequence[float]) -> IdBins:
        """The bins of ids whose probabilities are known, most frequent first; they are scaled to a sum of 1."""
        p = np.array(shares)
        return cls(np.arange(len(p) + 1.0) + 0.5, np.asarray(p / p.sum()), len(p))

    @property
    def ids(self) -> NDArray[np.float64]:
        """The number of ids of each bin [bins]."""
        return np.diff(self.edges)

    def beyond(self, most_frequent: float) -> NDArray[np.float64]:
        """The number of ids of each bin [bins] that are not among the `most_frequent` ids."""
        return np.diff(np.maximum(self.edges, most_frequent + 0.5))

    def expected_present(self, draws: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability that an id of each bin [bins] occurs among `draws` draws, which may be an array [..., 1]."""
        # log1p keeps the tail, where p is far below the float's resolution at 1.
        return np.asarray(-np.expm1(draws * np.log1p(-np.minimum(self.p, 1 - 1e-16))))


@lru_cache(maxsize=512)  # 128 kB each
def _bins_of(vocabulary: float, skew: float, offset: float) -> IdBins:
    """See IdBins.of. A projection asks for the same bins dozens of times."""
    edges = _edges(vocabulary)
    single = min(len(edges) - 1, _EXACT_RANKS)
    # One id stands for its bin: that of the bin's geometric mean rank.
    ranks = np.concatenate([np.arange(1.0, single + 1), np.sqrt(edges[single:-1] * edges[single + 1 :])])
    weights = (ranks + offset) ** -skew
    bins = IdBins(edges, np.asarray(weights / float((weights * np.diff(edges)).sum())), single)
    for array in (bins.edges, bins.p):
        array.flags.writeable = False  # all callers share it
    return bins


def _edges(vocabulary: float) -> NDArray[np.float64]:
    """The edges of the bins of frequency ranks, ascending [bins + 1]."""
    edges: NDArray[np.float64] = np.arange(math.floor(min(vocabulary, _EXACT_RANKS)) + 1.0) + 0.5
    if vocabulary <= _EXACT_RANKS:
        return edges
    tail = np.geomspace(_EXACT_RANKS + 0.5, vocabulary + 0.5, _TAIL_BINS + 1)
    return np.asarray(np.concatenate([edges, tail[1:]]), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ZipfLaw:
    """Zipf's law for the ids of `fields` identical fields, each with an equal share of the vocabulary.

    With one field all ids follow the same law. `offset`: see expected_unique. `shares`, if any, are the probabilities
    of the ids of a single field, most frequent first; they replace the law.
    """

    vocabulary: float
    skew: float
    fields: int = 1
    offset: float = 0.0
    shares: tuple[float, ...] = ()

    def unique(self, draws: float, beyond: float = 0.0) -> float:
        """Expected number of distinct ids among `draws` drawn ids, without the `beyond` most frequent ones."""
        return _unique(self, draws, beyond) if draws > 0 else 0.0

    def draws_of(self, unique: float) -> float:
        """The number of draws that hold `unique` distinct ids, to a relative 1e-6; infinite for all ids there are."""
        return _draws_of(self, unique)

    def counted(self, draws: float, samples: float, beyond: float = 0.0) -> float:
        """The effective number of ids among a sample's `draws`, if an id weighs 1 / (its occurrences in all samples).

        That is the number of equally weighted ids with the same spread, (sum w)^2 / sum w^2. The `beyond` most frequent
        ids weigh nothing.
        """
        first, second = self.weighed(samples * draws, beyond)
        return draws * first**2 / second if second else 0.0

    def weighed(self, draws: float, beyond: float) -> tuple[float, float]:
        """The mean weight, and the mean squared weight, of a drawn id among `draws`; see `counted`."""
        bins = self.bins
        weights = 1 / np.maximum(1.0, draws / self.fields * bins.p)
        drawn = bins.p * bins.beyond(beyond / self.fields)
        return float((drawn * weights).sum()), float((drawn * weights**2).sum())

    def tables(self, hot: float = 0.0) -> tuple[tuple[ZipfLaw, float, float], ...]:
        """Each field's table: the law of its ids, its share of the draws, and its part of the `hot` hottest rows."""
        own = ZipfLaw(self.vocabulary / self.fields, self.skew, offset=self.offset, shares=self.shares)
        return ((own, 1 / self.fields, hot / self.fields),) * self.fields

    @property
    def bins(self) -> IdBins:
        """The ids of one field."""
        if self.shares:
            return IdBins.of_shares(self.shares)
        return IdBins.of(self.vocabulary / self.fields, self.skew, self.offset)


# A job asks for the same counts of the same tables again and again, once for each candidate plan.
@lru_cache(maxsize=8192)
def _unique(law: ZipfLaw, draws: float, beyond: float) -> float:
    bins = law.bins
    present = bins.expected_present(draws / law.fields)
    return law.fields * float((bins.beyond(beyond / law.fields) * present).sum())


@dataclass(frozen=True, slots=True)
class TablesLaw:
    """The ids of unequal tables: part i draws the share `shares[i]` of all ids by the law `parts[i]`."""

    parts: tuple[ZipfLaw, ...]
    shares: tuple[float, ...]

    @property
    def vocabulary(self) -> float:
        """The ids of all tables."""
        return sum(part.vocabulary for part in self.parts)

    def unique(self, draws: float, beyond: float = 0.0) -> float:
        """As `ZipfLaw.unique`."""
        return sum(part.unique(draws * share, hot) for part, share, hot in self.tables(beyond))

    def draws_of(self, unique: float) -> float:
        """As `ZipfLaw.draws_of`."""
        return _draws_of(self, unique)

    def counted(self, draws: float, samples: float, beyond: float = 0.0) -> float:
        """As `ZipfLaw.counted`."""
        weighed = [(share, *part.weighed(samples * draws * share, hot)) for part, share, hot in self.tables(beyond)]
        first = sum(share * mean for share, mean, _ in weighed)
        second = sum(share * squared for share, _, squared in weighed)
        return draws * first**2 / second if second else 0.0

    def tables(self, hot: float = 0.0) -> tuple[tuple[ZipfLaw, float, float], ...]:
        """As `ZipfLaw.tables`."""
        return tuple(zip(self.parts, self.shares, self.hottest(hot), strict=True))

    def hottest(self, rows: float) -> tuple[float, ...]:
        """How many of the `rows` most frequent ids of all tables each part has."""
        if rows <= 0:
            return (0.0,) * len(self.parts)
        if rows >= self.vocabulary:
            return tuple(part.vocabulary for part in self.parts)
        p = np.concatenate(
            [part.bins.p * share / part.fields for part, share in zip(self.parts, self.shares, strict=True)]
        )
        ids = np.concatenate([part.bins.ids * part.fields for part in self.parts])
        of_part = np.repeat(np.arange(len(self.parts)), [len(part.bins.p) for part in self.parts])
        order = np.argsort(-p, kind="stable")
        taken = np.diff(np.minimum(np.cumsum(ids[order]), rows), prepend=0.0)
        return tuple(np.bincount(of_part[order], taken, minlength=len(self.parts)).tolist())


IdLaw = ZipfLaw | TablesLaw


def _draws_of(law: IdLaw, unique: float) -> float:
    if unique >= law.vocabulary:
        return math.inf
    low = 0.0
    high = max(unique, 1.0)
    while law.unique(high) < unique:
        low, high = high, 2 * high
        if high > _MAX_DRAWS:
            return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if not low < middle < high:  # `low` and `high` are neighbouring floats
            break
        low, high = (middle, high) if law.unique(middle) < unique else (low, middle)
    return high


# Candidate plans of a job ask for the same few tables and caches.
@lru_cache(maxsize=8192)
def misses(law: IdLaw, draws: float, cached: float, seen: float = math.inf) -> float:
    """Distinct ids among `draws` drawn ids that are not among the `cached` ids that were drawn last before.

    Che's approximation, in draws: a cache that evicts the least recently used holds the distinct ids of the last
    `window` draws that fill it. The misses are the ids that the next draws add to those. `seen`: draws since the cache
    was empty.
    """
    window = min(law.draws_of(cached), seen) if cached > 0 else 0.0
    return law.unique(window + draws) - law.unique(window) if window < math.inf else 0.0


def largest_share(balls: float, cells: int) -> float:
    """Expected share of `balls` in the fullest of `cells` cells, if each ball falls into a random cell.

    Interpolated linearly between whole numbers of balls. For more than 200 balls the counts of the cells are treated as
    independent Poisson variables.
    """
    if balls <= 1 or cells == 1:
        return 1.0
    low = math.floor(balls)
    at_low = _fullest(low, cells)
    at_high = _fullest(low + 1, cells)
    return (at_low + (balls - low) * (at_high - at_low)) / balls


def _fullest(balls: int, cells: int) -> float:
    """Expected number of balls in the fullest cell: E[max] = sum over k of P(max > k).

    P(max <= k) is the ratio of two coefficients of x^balls: that in (sum_{j <= k} x^j q_j)^cells and that in
    (sum_j x^j q_j)^cells, for any Poisson probabilities q.
    """
    mean = balls / cells
    j = np.arange(balls + 1.0)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, balls + 1)))])
    q = np.exp(j * math.log(mean) - mean - log_factorial)
    if balls > _MAX_EXACT_BALLS:
        return float((1 - np.cumsum(q) ** cells).clip(0).sum())
    whole = math.exp(balls * math.log(balls) - balls - log_factorial[-1])
    largest = 0.0
    for k in range(balls):
        # The polynomial to the power `cells`, by repeated squaring.
        power = np.where(j <= k, q, 0.0)
        result = np.eye(1, balls + 1)[0]
        exponent = cells
        while exponent:
            if exponent & 1:
                result = np.convolve(result, power)[: balls + 1]
            power = np.convolve(power, power)[: balls + 1]
            exponent >>= 1
        exceeds = 1 - float(result[-1]) / whole
        largest += exceeds
        if exceeds < _NEGLIGIBLE_PROBABILITY:
            break
    return largest


@dataclass(frozen=True, slots=True)
class HeapsLaw:
    """Heaps' law, unique = coefficient * draws**exponent, fitted to the counts of a trace."""

    coefficient: float
    exponent: float

    @classmethod
    def through(cls, draws_a: float, unique_a: float, draws_b: float, unique_b: float) -> HeapsLaw:
        """The law through two measured points. Equal draws say nothing about growth; the exponent is then 1."""
        if min(draws_a, draws_b, unique_a, unique_b) <= 0:
            return cls(0.0, 1.0)
        exponent = 1.0
        if not math.isclose(draws_a, draws_b):
            exponent = math.log(unique_b / unique_a) / math.log(draws_b / draws_a)
        exponent = min(max(exponent, 0.0), 1.0)
        return cls(unique_a / draws_a**exponent, exponent)

    def unique(self, draws: float) -> float:
        """Expected number of distinct ids among `draws` drawn ids."""
        return float(min(self.coefficient * draws**self.exponent, draws))
