"""Batches read ahead, in a thread of its own, and never more than so many.

When that many wait to be trained on, the thread stops reading; a pipe fills up then, and whoever writes into it has to
wait. So memory does not depend on how fast rows come.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Batch
from des_ref.data.criteo_rows import parse
from des_ref.stream.drift import Drift
from des_ref.stream.lines import Lines

_LOOK_S = 0.1  # how often a thread that waits sees whether it is to end


@dataclass(frozen=True, slots=True)
class Read:
    """A batch, and where the stream stands after it."""

    batch: Batch
    position: dict[str, Any]


def of_text(lines: Lines, samples: int, bad: BadRows) -> Iterator[Read | None]:
    """Batches of so many good rows of Criteo's format; None where none have come yet. A short end is left."""
    ids, labels, missing = [], [], samples
    while True:
        got = lines.take(missing)
        if not got:
            if lines.is_over:
                return
            yield None
            continue
        part = parse(got, lines.label, lines.position.line - len(got) + 1, bad)
        ids.append(part[0])
        labels.append(part[1])
        missing -= len(part[1])
        if not missing:
            yield Read(Batch.of_columns(torch.cat(ids), torch.cat(labels)), lines.position.to_json())
            ids, labels, missing = [], [], samples


def of_drift(drift: Drift, samples: int, rank: int, ranks: int, first: int = 0) -> Iterator[Read]:
    """This worker's share of batches of so many rows, from row `first` on, without end."""
    share = samples // ranks
    while True:
        batch = drift.batch(first + rank * share, share)
        first += samples
        yield Read(batch, {"row": first})


class Reader:
    """Takes what `batches` gives ahead of who asks, at most `ahead` of them. To be closed."""

    def __init__(self, batches: Iterator[Read | None], ahead: int) -> None:
        self._batches, self._ahead = batches, queue.Queue[Read | BaseException | None](ahead)
        self._stop = threading.Event()
        self.held_back_s = 0.0  # that the thread has waited because enough was read
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()
        self.is_over = False

    def __len__(self) -> int:
        """Batches that wait."""
        return self._ahead.qsize()

    def take(self, patience_s: float) -> Read | None:
        """The next one; None where none has come within so many seconds, or where it `is_over`. Raises what reading
        has raised."""
        try:
            got = self._ahead.get(timeout=patience_s)
        except queue.Empty:
            return None
        if isinstance(got, BaseException):
            raise got
        self.is_over = got is None
        return got

    def close(self) -> None:
        """Stop reading. Returns at once; the thread ends with what it is at."""
        self._stop.set()

    def _run(self) -> None:
        try:
            for got in self._batches:
                if self._stop.is_set():
                    return
                if got is not None:
                    self._put(got)
            self._put(None)
        except BaseException as error:  # whatever it is, it belongs to who waits for the rows
            self._put(error)

    def _put(self, what: Read | BaseException | None) -> None:
        while not self._stop.is_set():
            start = time.perf_counter()
            try:
                self._ahead.put(what, timeout=_LOOK_S)
                return
            except queue.Full:
                continue
            finally:
                self.held_back_s += time.perf_counter() - start
