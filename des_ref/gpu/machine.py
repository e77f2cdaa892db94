"""The machine that the checks run on, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dessim.errors import CheckFailed

Figures = dict[str, float | int | str]


class Skipped(Exception):
    """A check that cannot run here; the text says why."""


class CheckTimedOut(CheckFailed):
    """A check did not end within its time limit."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`device` is cuda or cpu. `folder` takes what checks write. `cluster` names the topology that predicts steps.

    `small`: sizes that a CPU trains in a second; otherwise a CPU gets an eighth of the sizes of a GPU.
    """

    device: str
    folder: Path
    cluster: str
    small: bool = False

    def size(self, full: int, small: int) -> int:
        if self.small:
            return small
        return full if self.device == "cuda" else max(full // 8, small)


def require(holds: bool, otherwise: str) -> None:
    """Raises CheckFailed with the text `otherwise`, unless `holds`."""
    if not holds:
        raise CheckFailed(otherwise)
