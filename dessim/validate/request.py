"""What a kind of case is asked for, and what it gives back. Knows nothing of what the cases are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dessim.cluster.parts import Transport
from dessim.files import read_toml
from dessim.validate.outcome import SPLITS, Bounds, Outcome

CASES = Path(__file__).with_name("cases.toml")
"""The shipped cases: package data."""
Say = Callable[[str], None]
"""Takes a line about how far it is."""


def say_nothing(line: str) -> None:
    """For who does not want to hear."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which cases to run. `table` is cases.toml as read; `splits` are those of it that are wanted.

    `transport` is the calibrated one that predictions use. `measured`, what an earlier run of the kind returned, is
    used in place of measuring.
    """

    table: Mapping[str, Any]
    transport: Transport
    splits: Sequence[str] = SPLITS
    quick: bool = False
    measured: Any = None
    say: Say = say_nothing


class Kind(Protocol):
    """Runs the cases of a kind. Returns outcomes, and all that was measured as plain JSON values."""

    def __call__(self, request: Request) -> tuple[list[Outcome], Any]: ...


def read_cases(path: Path = CASES) -> dict[str, Any]:
    """The tables of cases.toml. Raises FileError."""
    return read_toml(path)


def bounds_of(table: Mapping[str, Any]) -> dict[str, Bounds]:
    """`[bounds.KIND]` of cases.toml."""
    return {kind: Bounds(**bounds) for kind, bounds in table["bounds"].items()}
