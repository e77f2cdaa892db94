"""The request to run the cases of one kind, and the shipped table of cases."""

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
OnStatus = Callable[[str], None]
"""Called with a line about the progress of a run."""


def ignore_status(line: str) -> None:
    """Print nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRequest:
    """Cases of one kind to run. `table` is cases.toml as read; `splits` selects cases of it.

    `only` keeps the cases whose names contain it. Predictions use the calibrated `transport`. `measured` holds the
    measurements of an earlier run of this kind; with it, nothing is measured.
    """

    table: Mapping[str, Any]
    transport: Transport
    splits: Sequence[str] = SPLITS
    quick: bool = False
    only: str = ""
    measured: Any = None
    on_status: OnStatus = ignore_status


class CaseRunner(Protocol):
    """Runs the cases of a kind. Returns their outcomes, and all measurements as plain JSON values."""

    def __call__(self, request: CaseRequest) -> tuple[list[Outcome], Any]: ...


def read_cases(path: Path = CASES) -> dict[str, Any]:
    """Read the tables of cases.toml. Raises FileError."""
    return read_toml(path)


def bounds_of(table: Mapping[str, Any]) -> dict[str, Bounds]:
    """Return the bounds of each kind of case, `[bounds.KIND]` of cases.toml."""
    return {kind: Bounds(**bounds) for kind, bounds in table["bounds"].items()}
