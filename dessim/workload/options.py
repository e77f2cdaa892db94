"""Options of strategies, written behind their names: `ps_sync+hot_rows=1000`, `row_all_to_all+look_ahead`.

    hot_rows=H     the H most frequent rows are on every worker, and their gradients are AllReduced. OpenEmbedding
                   (Chen et al., ICDE 2023) trains such tables apart from those of its servers.
    look_ahead     before a step its samples are dealt out to the workers that have most of their rows, equally many to
                   each. The global batch stays what it is, so training is the same. Herald (Zeng et al., NSDI 2024).
    cache_rows=C   rows live in the host's memory; a worker's GPU keeps the C it used last, with their optimizer's
                   state. ScaleFreeCTR (Guo et al., SIGIR 2021).

    shampoo        replicated weights have a second-order optimizer, whose work the workers share
                   (des_ref/models/shampoo.py).

A cache of rows between *workers* saves nothing where training is exact: a row is updated in every step that uses it, so
a copy is out of date as soon as it is used, unless its holder gets the gradient too, and then it is a hot row.

Symbols that formulas of such plans use:

    H  hot rows                        x  different cold ids (all but hot ones) among one worker's samples
    C  rows that a GPU keeps           X  different cold ids in the global batch
    M  rows a GPU lacks in a step      l  share of a worker's x rows that it owns itself
    Y  weights whose search directions a worker finds
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from dessim.errors import UsageError
from dessim.workload.ids import ZipfLaw, largest_share

SHAMPOO_BLOCK, SHAMPOO_EVERY = 256, 20  # rows and columns of a block, and steps from roots to roots

_SWITCHES = ("look_ahead", "shampoo")
_MAX_ROWS = 2**31


@dataclass(frozen=True, slots=True)
class Options:
    """The settings; all off."""

    hot_rows: int = 0
    look_ahead: bool = False
    cache_rows: int = 0
    shampoo: bool = False

    def __bool__(self) -> bool:
        return self != Options()

    def __str__(self) -> str:
        """As they are written behind a strategy's name."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        return "".join(f"+{name}" if value is True else f"+{name}={value}" for name, value in given if value)


def parse_options(strategy: str, settings: Sequence[str], by_strategy: Mapping[str, Sequence[str]]) -> Options:
    """The options that `settings` state behind the name of a strategy.

    `strategy` is the whole text; `by_strategy` gives the names of the options that each strategy takes.
    Raises UsageError.
    """
    name = strategy.partition("+")[0]
    known = by_strategy.get(name, ())
    values: dict[str, int | bool] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            has = f"it has {', '.join(known)}" if known else f"those that have any are {', '.join(by_strategy)}"
            raise UsageError(f"strategy {strategy!r}: {name} has no option {key!r}; {has}")
        if key in values:
            raise UsageError(f"strategy {strategy!r}: {key} is given twice")
        if key in _SWITCHES:
            if value:
                raise UsageError(f"strategy {strategy!r}: {key} takes no value")
            values[key] = True
            continue
        if not (value.isascii() and value.isdigit() and 0 < int(value) < _MAX_ROWS):
            raise UsageError(f"strategy {strategy!r}: write a number of rows above 0, such as {key}=10000")
        values[key] = int(value)
    return Options(**values)  # type: ignore[arg-type]  # only switches are bools


@dataclass(frozen=True, slots=True)
class Expected:
    """What the options' symbols are on average where ids follow `law`, in a job that has drawn `seen` ids before."""

    options: Options
    law: ZipfLaw
    seen: float = math.inf

    def __call__(self, symbols: Mapping[str, float]) -> dict[str, float]:
        """The symbols that are added to a job's, or take the place of its own."""
        found: dict[str, float] = {}
        if self.options.hot_rows or self.options.look_ahead:
            found |= self._cold(symbols)
        if self.options.cache_rows:
            found |= {"C": float(self.options.cache_rows), "M": self._misses(symbols)}
        return found

    def _cold(self, symbols: Mapping[str, float]) -> dict[str, float]:
        law, n, draws = self.law, symbols["N"], symbols["B"] * symbols["m"]
        hot = min(float(self.options.hot_rows), law.vocabulary)
        # A job's own counts, where it has them, rule; the law says which part of them is cold. Where samples are dealt
        # out, a worker's count depends on it, that of the batch does not.
        measured = symbols["u"] / law.unique(draws / n)
        if self.options.look_ahead:
            measured = symbols["U"] / law.unique(draws)
        own, others = law.unique(draws / n, hot), law.unique(draws / n, hot)
        if self.options.look_ahead and n > 1:
            # Of the occurrences of a row so many are on its owner, and the others elsewhere.
            share = largest_share(law.counted(symbols["m"], symbols["B"], hot), int(n))
            own, others = law.unique(draws * share, hot), law.unique(draws * (1 - share) / (n - 1), hot)
        x = measured * (own + (n - 1) * others) / n
        return {
            "H": hot,
            "x": x,
            "X": symbols["U"] * law.unique(draws, hot) / law.unique(draws),
            "l": own / (own + (n - 1) * others) if own else 1 / n,
            "u": x + measured * (law.unique(draws / n) - law.unique(draws / n, hot)),
        }

    def _misses(self, symbols: Mapping[str, float]) -> float:
        """The least recently used go first: a row is there if it was among those of the last draws that fill all caches
        together, and misses are the ids that the next batch has beside these. (Che's approximation, in draws.)"""
        n, draws = symbols["N"], symbols["B"] * symbols["m"]
        before = min(self.law.draws_of(n * self.options.cache_rows), self.seen)
        return (self.law.unique(before + draws) - self.law.unique(before)) / n if before < math.inf else 0.0
