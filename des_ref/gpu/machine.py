"""What the checks run on, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dessim.errors import CheckFailed

Figures = dict[str, float | int | str]


class Skipped(Exception):
    """A check that cannot run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`device` is cuda or cpu. `folder` takes what checks write. `small`: sizes that a CPU trains in a second."""

    device: str
    folder: Path
    cluster: str
    small: bool = False

    def size(self, full: int, small: int) -> int:
        return small if self.small else full


def require(holds: bool, otherwise: str) -> None:
    """Raises CheckFailed."""
    if not holds:
        raise CheckFailed(otherwise)
