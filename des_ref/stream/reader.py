"""Reads batches ahead in a thread, up to a limit.

When the limit is reached, the thread stops reading; a pipe then fills up, and its writer blocks. Memory therefore does
not depend on how fast rows arrive.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Batch
from des_ref.data.criteo_rows import Integers, parse
from des_ref.stream.drift import Drift
from des_ref.stream.lines import Lines

_CHECK_STOP_EVERY_S = 0.1  # how often a blocked thread checks whether it has been closed

_Columns = tuple[Tensor, Tensor, Tensor | None]  # ids [b, F], labels [b] and dense features [b, d], if any


@dataclass(frozen=True, slots=True)
class Read:
    """A batch, and the position of the stream after it."""

    batch: Batch
    position: dict[str, Any]


def of_text(lines: Lines, samples: int, bad: BadRows, integers: Integers = Integers.IDS) -> Iterator[Read | None]:
    """Batches of `samples` good rows in Criteo's format; None where no lines have arrived.

    An incomplete batch at the end is dropped.
    """
    parts: list[_Columns] = []
    missing = samples
    while True:
        block = lines.take(missing)
        if not block:
            if lines.has_ended:
                return
            yield None
            continue
        parts.append(parse(block, lines.label, lines.position.line - len(block) + 1, bad, integers))
        missing -= len(parts[-1][1])
        if not missing:
            yield Read(_joined(parts), lines.position.to_json())
            parts = []
            missing = samples


def _joined(parts: Sequence[_Columns]) -> Batch:
    ids, labels, dense = zip(*parts, strict=True)
    features = [part for part in dense if part is not None]
    return Batch.of_columns(torch.cat(ids), torch.cat(labels), torch.cat(features) if features else None)


def of_drift(drift: Drift, samples: int, rank: int, ranks: int, first: int = 0) -> Iterator[Read]:
    """This worker's share of generated batches of `samples` rows, from row `first` on, without end."""
    share = samples // ranks
    while True:
        batch = drift.batch(first + rank * share, share)
        first += samples
        yield Read(batch, {"row": first})


class Reader:
    """Takes up to `ahead` batches from `batches` in a thread. Close it after use."""

    def __init__(self, batches: Iterator[Read | None], ahead: int) -> None:
        self._batches = batches
        self._ahead = queue.Queue[Read | BaseException | None](ahead)
        self._stop = threading.Event()
        self.held_back_s = 0.0  # seconds that the thread has waited because enough batches were read
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()
        self.has_ended = False

    def __len__(self) -> int:
        """Batches read and not yet taken."""
        return self._ahead.qsize()

    def take(self, timeout_s: float) -> Read | None:
        """The next batch; None if there is none within `timeout_s`, or after the end.

        Raises what reading has raised.
        """
        try:
            item = self._ahead.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        self.has_ended = item is None
        return item

    def close(self) -> None:
        """Stop reading. Returns at once; the thread ends after what it is doing."""
        self._stop.set()

    def _run(self) -> None:
        try:
            for read in self._batches:
                if self._stop.is_set():
                    return
                if read is not None:
                    self._put(read)
            self._put(None)
        except BaseException as error:  # any error is raised again in the thread that takes the batches
            self._put(error)

    def _put(self, item: Read | BaseException | None) -> None:
        while not self._stop.is_set():
            started_at = time.perf_counter()
            try:
                self._ahead.put(item, timeout=_CHECK_STOP_EVERY_S)
                return
            except queue.Full:
                continue
            finally:
                self.held_back_s += time.perf_counter() - started_at
