"""Gives every worker its share of the same batches, from one reader or from one reader per worker.

Rank 0 alone reads text, and sends each worker its share; generated rows are generated where they are used. Before each
batch all workers agree whether every one has its rows, or whether the stream has ended, because the input has ended or
one of them was asked to stop. A worker that waits for rows keeps answering the others, so that no timeout expires.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.stream.reader import Read, Reader
from dessim.errors import DessimError

END = "end of input"
_AGREE_EVERY_S = 0.5  # how often a worker that waits for rows exchanges states with the others


class State(IntEnum):
    """The state of a worker. The highest state of all workers decides what all of them do."""

    READY = 0
    WAITING = 1
    ENDED = 2
    STOPPED = 3
    FAILED = 4


class Feed(Iterator[tuple[int, Batch]]):
    """Iterates over (0, this worker's share of the next batch) until the stream ends. Used by one thread.

    comm    a process group for the feed alone, on the CPU
    reader  this worker's reader; None where rank 0 sends it its rows
    dealt   number of fields, with one id each, of the rows that rank 0 sends; 0 where every worker has a reader
    share   rows of this worker in a batch
    stop    set when this process is asked to stop
    dense   number of dense features of the rows that rank 0 sends
    """

    def __init__(
        self, comm: Comm, reader: Reader | None, dealt: int, *, share: int, stop: threading.Event, dense: int = 0
    ) -> None:
        self._comm = comm
        self._reader = reader
        self._dealt = dealt
        self._dense = dense
        self._share = share
        self._stop = stop
        self._positions: deque[dict[str, Any]] = deque()
        self.starved_s = 0.0  # seconds that this thread has waited for rows
        self.ended_by = ""

    def __next__(self) -> tuple[int, Batch]:
        started_at = time.perf_counter()
        read: Read | None = None
        state = State.WAITING
        problem: Exception | None = None
        while state == State.WAITING:
            try:
                if read is None and self._reader is not None:
                    read = self._reader.take(_AGREE_EVERY_S)
            except Exception as error:  # raised in the reader's thread; `_fail` raises it on every worker
                problem = error
            state = self._agree(self._state(read, problem))
        self.starved_s += time.perf_counter() - started_at
        if state == State.FAILED:
            self._fail(problem)
        if state != State.READY:
            self.ended_by = "stopped" if state == State.STOPPED else END
            raise StopIteration
        if read is not None:
            self._positions.append(read.position)
        return 0, self._deal(read) if self._dealt and self._comm.world_size > 1 else self._own(read)

    def position(self) -> dict[str, Any] | None:
        """The position of the stream after the next batch that is trained on. Call it once per batch.

        None where there is no reader.
        """
        return self._positions.popleft() if self._positions else None

    def _state(self, read: Read | None, problem: Exception | None) -> State:
        if problem is not None:
            return State.FAILED
        if self._stop.is_set():
            return State.STOPPED
        if read is not None or self._reader is None:
            return State.READY
        return State.ENDED if self._reader.has_ended else State.WAITING

    def _agree(self, state: State) -> State:
        """The highest state of all workers."""
        if self._comm.world_size == 1:
            return state
        highest = torch.tensor([int(state)])
        self._comm.all_reduce_max("stream_state", highest).wait()
        return State(int(highest))

    def _fail(self, problem: Exception | None) -> None:
        """Raise the error of this worker's reader, or else that of another worker."""
        texts = self._comm.gather_text("stream_problem", str(problem or ""))
        if problem is not None:
            raise problem
        raise DessimError(next(text for text in texts if text))

    def _own(self, read: Read | None) -> Batch:
        assert read is not None
        return read.batch

    def _deal(self, read: Read | None) -> Batch:
        """Send each worker its rows, from rank 0. A row is one message line: its ids, its label, its dense features."""
        n = self._comm.world_size
        fields = self._dealt
        own = torch.empty(self._share, fields + 1 + self._dense, dtype=torch.int64)
        message = _lines(read.batch, fields) if read is not None else own[:0]
        received = [self._share, *[0] * (n - 1)]
        sent = [self._share * (read is not None)] * n
        self._comm.all_to_all("deal", own, message, received, sent).wait()
        ids, labels, bits = own.split([fields, 1, self._dense], dim=1)
        dense = bits.to(torch.int32).view(torch.float32) if self._dense else None
        return Batch.of_columns(ids.contiguous(), labels[:, 0].to(torch.float32), dense)


def _lines(batch: Batch, fields: int) -> Tensor:
    """int64 [b, F + 1 + d]: ids, labels and the bits of dense features, if any."""
    columns = [batch.ids.view(-1, fields), batch.labels.to(torch.int64)[:, None]]
    if batch.dense is not None:
        columns.append(batch.dense.view(torch.int32).to(torch.int64))
    return torch.cat(columns, dim=1)
