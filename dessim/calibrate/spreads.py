"""The spread of a transport's collectives, from errors of readings that its fit had not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dessim.cluster.spread import BANDS, MOST_GPUS, OTHER, Z80, Bands, Spread, band

_MIN_READINGS = 8
"""An op has a spread of its own in a band with this many readings; otherwise that of all ops."""
_LEAST = 0.02
"""No spread is smaller: runs of one benchmark on one cluster differ by a few per cent."""
_DIGITS = 3
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A reading that a fit had not seen: `op` on `size` bytes, within a server or not (`across`), of cluster `where`.

    `error` is log(predicted / measured). It was taken on `gpus` GPUs.
    """

    op: str
    size: float
    across: bool
    error: float
    where: str = ""
    gpus: int = MOST_GPUS


def halves(
    items: Sequence[Item], size: Callable[[Item], float], group: Callable[[Item], Hashable] = lambda _: None
) -> Iterator[tuple[list[Item], list[Item]]]:
    """Items to fit to and items to predict: every other size of each group and the rest; then the reverse."""
    sizes: dict[Hashable, set[float]] = {}
    for item in items:
        sizes.setdefault(group(item), set()).add(size(item))
    for first in (0, 1):
        kept = {key: set(sorted(of_group)[first::2]) for key, of_group in sizes.items()}
        yield (
            [item for item in items if size(item) in kept[group(item)]],
            [item for item in items if size(item) not in kept[group(item)]],
        )


def spread_of(readings: Sequence[LeftOut], start: Spread | None = None) -> Spread:
    """The spread that puts 80 % of the readings of each op and band into their interval.

    A cluster with four times as many readings has twice the weight. An op that one of several clusters measured alone
    spreads at least as all ops together do. Where there are no readings, `start` stays, and on more GPUs than they had.
    """
    known = start or Spread()
    if not readings:
        return known
    return Spread(
        inside={**known.inside, **_by_op([r for r in readings if not r.across])},
        between={**known.between, **_by_op([r for r in readings if r.across])},
        gpus=max(r.gpus for r in readings),
        more=start,
    )


def spread_between_servers(readings: Sequence[LeftOut]) -> Spread:
    """The spread of all ops together; there must be a reading, and all must be between servers."""
    return Spread(between={OTHER: spread_of(readings).between[OTHER]})


def toml_of(spread: Spread | None, table: str) -> list[str]:
    """The lines of a spread in TOML, as the tables `table`.inside and so on; none without a spread."""
    if spread is None:
        return []
    lines = [f"[{table}]", f"gpus = {spread.gpus}", ""] if spread.gpus != MOST_GPUS else []
    for place, ops in (("inside", spread.inside), ("between", spread.between)):
        if ops:
            lines += [f"[{table}.{place}]", *(f"{op} = {list(bands)}" for op, bands in ops.items()), ""]
    return [*lines, *toml_of(spread.more, f"{table}.more")]


def covered(readings: Iterable[LeftOut], spread: Spread) -> list[float]:
    """The share of readings within their 80 % interval, for each band; nan for a band without readings."""
    inside: list[list[bool]] = [[] for _ in range(len(BANDS) + 1)]
    for reading in readings:
        known = spread.of(reading.op, reading.size, across=reading.across, gpus=reading.gpus)
        if known is not None:
            inside[band(reading.size)].append(abs(reading.error) <= Z80 * known[1])
    return [float(np.mean(values)) if values else math.nan for values in inside]


def _by_op(readings: Sequence[LeftOut]) -> dict[str, Bands]:
    """The spreads of a place by op, and of all ops together."""
    if not readings:
        return {}
    together = [_deviation([r for r in readings if band(r.size) == b]) for b in range(3)]
    anywhere = _deviation(readings)
    other = [_first(deviation, anywhere) for deviation in together]
    several = len({r.where for r in readings}) > 1
    by_op: dict[str, Bands] = {}
    for op in sorted({r.op for r in readings}):
        own = [[r for r in readings if r.op == op and band(r.size) == b] for b in range(3)]
        least = [other[b] if several and len({r.where for r in own[b]}) == 1 else 0.0 for b in range(3)]
        bands = [_own(group, least[b]) for b, group in enumerate(own)]
        if bands != [None] * len(bands):
            by_op[op] = _bands([_first(deviation, other[b]) for b, deviation in enumerate(bands)])
    return {**by_op, OTHER: _bands(other)}


def _own(readings: Sequence[LeftOut], least: float) -> float | None:
    """The deviation of an op in a band, and at least `least`; None for few readings."""
    deviation = _deviation(readings) if len(readings) >= _MIN_READINGS else None
    return None if deviation is None else max(deviation, least)


def _first(*deviations: float | None) -> float:
    """The first deviation that is known."""
    return next((deviation for deviation in deviations if deviation is not None), _LEAST)


def _bands(deviations: Sequence[float]) -> Bands:
    first, second, third = (round(max(deviation, _LEAST), _DIGITS) for deviation in deviations)
    return first, second, third


def _deviation(readings: Sequence[LeftOut]) -> float | None:
    """The 80th percentile of absolute errors over 1.28; None without readings.

    A cluster's readings weigh as the root of their number.
    """
    if not readings:
        return None
    count = {where: sum(r.where == where for r in readings) for where in dict.fromkeys(r.where for r in readings)}
    ranked = sorted((abs(r.error), count[r.where] ** -0.5) for r in readings)
    weights = np.cumsum([weight for _, weight in ranked])
    at = int(np.searchsorted(weights, 0.8 * weights[-1] * (1 - 1e-9)))
    return ranked[at][0] / Z80
