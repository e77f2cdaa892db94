"""Options of strategies, written behind their names: `ps_sync+hot_rows=1000`, `row_all_to_all+look_ahead`.

    hot_rows=H     Every worker holds the H most frequent rows, and their gradients are AllReduced. OpenEmbedding
                   (Chen et al., ICDE 2023) trains such tables separately from those of its servers.
    look_ahead     Before a step each sample is assigned to the worker that owns most of its rows, with equal numbers of
                   samples on all workers. The global batch does not change, and so neither does training. Herald
                   (Zeng et al., NSDI 2024).
    cache_rows=C   Rows live in the host's memory. A worker's GPU caches the C most recently used ones with their
                   optimizer state. ScaleFreeCTR (Guo et al., SIGIR 2021).
    shampoo        Replicated weights use a second-order optimizer, whose work the workers share
                   (des_ref/models/shampoo.py).

Caching the rows of other *workers* saves nothing while training is exact. A row is updated in every step that uses it,
so a copy is stale as soon as it has been used, unless its holder gets the gradient too; then it is a hot row.

`Expected` gives the values of the symbols that these plans use: H, x, X, l, C and M of dessim.workload.symbols.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from dessim.errors import UsageError
from dessim.workload.ids import IdLaw, largest_share, misses

SHAMPOO_BLOCK = 256  # rows and columns of a block
SHAMPOO_EVERY = 20  # steps between two computations of the roots

_SWITCHES = ("look_ahead", "shampoo")  # options without a value
_MAX_ROWS = 2**31


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a strategy's options. All are off by default."""

    hot_rows: int = 0
    look_ahead: bool = False
    cache_rows: int = 0
    shampoo: bool = False

    def __bool__(self) -> bool:
        return self != Options()

    def __str__(self) -> str:
        """The options as they are written behind a strategy's name."""
        settings = ((f.name, getattr(self, f.name)) for f in fields(self))
        return "".join(f"+{name}" if value is True else f"+{name}={value}" for name, value in settings if value)


def split_options(strategy: str) -> tuple[str, list[str]]:
    """The name of a strategy, and the settings of options behind it."""
    name, *settings = strategy.split("+")
    return name, settings


def parse_options(strategy: str, by_strategy: Mapping[str, Sequence[str]]) -> Options:
    """The options behind the name of a strategy.

    `by_strategy` gives the names of the options that each strategy takes. Raises UsageError.
    """
    name, settings = split_options(strategy)
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
    """Expected values of the options' symbols if ids follow `law`, in a job that has drawn `seen` ids before."""

    options: Options
    law: IdLaw
    seen: float = math.inf

    def __call__(self, symbols: Mapping[str, float]) -> dict[str, float]:
        """The symbols that are added to a job's, or replace its own."""
        expected: dict[str, float] = {}
        if self.options.hot_rows or self.options.look_ahead:
            expected |= self._cold(symbols)
        if self.options.cache_rows:
            expected |= {"C": float(self.options.cache_rows), "M": self._misses(symbols)}
        return expected

    def _cold(self, symbols: Mapping[str, float]) -> dict[str, float]:
        """Symbols of hot and cold rows."""
        law = self.law
        n = symbols["N"]
        draws = symbols["B"] * symbols["m"]
        hot = min(float(self.options.hot_rows), law.vocabulary)
        # A job's own counts take precedence, and the law only gives the part of them that is cold. Look-ahead changes
        # the count of a worker but not that of the batch, so it must scale by the latter.
        measured = symbols["u"] / law.unique(draws / n)
        if self.options.look_ahead:
            measured = symbols["U"] / law.unique(draws)
        # Distinct cold ids of one worker if it owned all rows, and if it owned none. It owns one row in n.
        own = law.unique(draws / n, hot)
        others = own
        if self.options.look_ahead and n > 1:
            # The share of a row's occurrences that look-ahead places on its owner.
            share = largest_share(law.counted(symbols["m"], symbols["B"], hot), int(n))
            own = law.unique(draws * share, hot)
            others = law.unique(draws * (1 - share) / (n - 1), hot)
        x = measured * (own + (n - 1) * others) / n
        return {
            "H": hot,
            "x": x,
            "X": symbols["U"] * law.unique(draws, hot) / law.unique(draws),
            "l": own / (own + (n - 1) * others) if own else 1 / n,
            "u": x + measured * (law.unique(draws / n) - law.unique(draws / n, hot)),
        }

    def _misses(self, symbols: Mapping[str, float]) -> float:
        """Rows a step that a GPU's cache lacks, if it evicts the least recently used."""
        n = symbols["N"]
        draws = symbols["B"] * symbols["m"]
        return misses(self.law, draws, n * self.options.cache_rows, self.seen) / n
