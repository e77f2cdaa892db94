"""Time, CPU time, rows and memory of a worker between two reports."""

from __future__ import annotations

import os
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from des_ref.stream.feed import Feed
from des_ref.stream.reader import Reader


@dataclass(frozen=True, slots=True)
class Reading:
    """One worker since the last report.

    cpu_s          CPU seconds of the process
    ids            occurrences
    held_back_s    seconds for which its reader waited because enough batches were read
    starved_s      seconds for which training waited for rows
    batches_ahead  batches read and not yet trained on
    """

    seconds: float
    cpu_s: float
    rows: float
    ids: float
    held_back_s: float
    starved_s: float
    batches_ahead: float

    def to_list(self) -> list[float]:
        """The fields in order."""
        return list(astuple(self))


class Clock:
    """Measures what a worker does between reports."""

    def __init__(self, feed: Feed, reader: Reader | None) -> None:
        self._feed = feed
        self._reader = reader
        self._rows = 0
        self._ids = 0
        self._before = self._now()

    @property
    def rows_per_s(self) -> float:
        """Rows trained on per second since the last report."""
        return self._rows / max(time.perf_counter() - self._before[0], 1e-9)

    def count(self, rows: int, ids: int) -> None:
        """Add the rows and ids of a step."""
        self._rows += rows
        self._ids += ids

    def read(self) -> Reading:
        """The measurement since the last call; starts the next one."""
        now = self._now()
        seconds, cpu_s, held_back_s, starved_s = (b - a for a, b in zip(self._before, now, strict=True))
        ahead = len(self._reader) if self._reader is not None else 0
        reading = Reading(
            seconds=seconds,
            cpu_s=cpu_s,
            rows=float(self._rows),
            ids=float(self._ids),
            held_back_s=held_back_s,
            starved_s=starved_s,
            batches_ahead=float(ahead),
        )
        self._before = now
        self._rows = 0
        self._ids = 0
        return reading

    def _now(self) -> tuple[float, float, float, float]:
        held_back_s = self._reader.held_back_s if self._reader is not None else 0.0
        return time.perf_counter(), time.process_time(), held_back_s, self._feed.starved_s


def resident_bytes() -> float:
    """Resident memory (RSS) of this process, as Linux counts it."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
