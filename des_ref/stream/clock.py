"""Time, CPU time, rows and memory of a worker between two reports."""

from __future__ import annotations

import os
import time
from pathlib import Path

from des_ref.stream.feed import Feed
from des_ref.stream.reader import Reader


class Clock:
    """What a worker has done since the last report."""

    def __init__(self, feed: Feed, reader: Reader | None) -> None:
        self._feed, self._reader = feed, reader
        self._rows = self._ids = 0
        self._before = self._now()

    @property
    def rows_per_s(self) -> float:
        return self._rows / max(time.perf_counter() - self._before[0], 1e-9)

    def count(self, rows: int, ids: int) -> None:
        self._rows += rows
        self._ids += ids

    def read(self) -> list[float]:
        """Seconds, CPU seconds of the process, rows, ids, seconds that the reader was held back and that training was
        starved, and batches that wait; from here on anew."""
        now = self._now()
        seconds, cpu, held_back, starved = (b - a for a, b in zip(self._before, now, strict=True))
        ahead = len(self._reader) if self._reader is not None else 0
        figures = [seconds, cpu, float(self._rows), float(self._ids), held_back, starved, float(ahead)]
        self._before, self._rows, self._ids = now, 0, 0
        return figures

    def _now(self) -> tuple[float, float, float, float]:
        held_back = self._reader.held_back_s if self._reader is not None else 0.0
        return time.perf_counter(), time.process_time(), held_back, self._feed.starved_s


def resident_bytes() -> float:
    """Memory that this process has in use, as Linux counts it."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
