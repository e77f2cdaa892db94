"""From one reader, or one a worker, to every worker's share of the same batches.

Text is read by rank 0 alone, which deals each worker its share; rows that are made are made where they are used. Before
each batch all workers agree whether there is one for everybody, or whether the stream is over: at its end, or because
one of them was asked to stop. A worker that waits for rows goes on saying so, so that nobody's patience ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import torch

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.stream.reader import Read, Reader
from dessim.errors import DessimError

END = "end of input"
_PATIENCE_S = 0.5  # that a worker waits for rows before it says that it still does


class State(IntEnum):
    """Of a worker; the greatest of all workers' is what happens."""

    READY = 0
    WAITING = 1
    OVER = 2
    STOPPED = 3
    FAILED = 4


class Feed(Iterator[tuple[int, Batch]]):
    """(0, this worker's share of the next batch), until the stream is over. Used by one thread.

    `comm` is a group of its own, on the CPU. `reader` is None on workers that are dealt their `share` rows, of `dealt`
    fields with an id each; 0 where every worker has a reader.
    """

    def __init__(self, comm: Comm, reader: Reader | None, dealt: int, share: int, stop: threading.Event) -> None:
        self._comm, self._reader, self._dealt, self._share, self._stop = comm, reader, dealt, share, stop
        self._positions: deque[dict[str, Any]] = deque()
        self.starved_s = 0.0  # that this thread has waited for rows
        self.ended_by = ""

    def __next__(self) -> tuple[int, Batch]:
        start = time.perf_counter()
        read: Read | None = None
        state, problem = State.WAITING, None
        while state == State.WAITING:
            try:
                if read is None and self._reader is not None:
                    read = self._reader.take(_PATIENCE_S)
            except Exception as error:  # the reader's, of a thread that could not raise it here
                problem = error
            state = self._agree(self._state(read, problem))
        self.starved_s += time.perf_counter() - start
        if state == State.FAILED:
            self._fail(problem)
        if state != State.READY:
            self.ended_by = "stopped" if state == State.STOPPED else END
            raise StopIteration
        if read is not None:
            self._positions.append(read.position)
        return 0, self._deal(read) if self._dealt and self._comm.world_size > 1 else self._own(read)

    def position(self) -> dict[str, Any] | None:
        """Where the stream stands after the next batch that is done; to be called once for each. None where no reader
        is."""
        return self._positions.popleft() if self._positions else None

    def _state(self, read: Read | None, problem: BaseException | None) -> State:
        if problem is not None:
            return State.FAILED
        if self._stop.is_set():
            return State.STOPPED
        if read is not None or self._reader is None:
            return State.READY
        return State.OVER if self._reader.is_over else State.WAITING

    def _agree(self, state: State) -> State:
        if self._comm.world_size == 1:
            return state
        everyones = torch.tensor([int(state)])
        self._comm.all_reduce_max("stream_state", everyones).wait()
        return State(int(everyones))

    def _fail(self, problem: BaseException | None) -> None:
        """With the reader's own error, or with what another worker's was."""
        texts = self._comm.gather_text("stream_problem", str(problem or ""))
        if problem is not None:
            raise problem
        raise DessimError(next(text for text in texts if text))

    def _own(self, read: Read | None) -> Batch:
        assert read is not None
        return read.batch

    def _deal(self, read: Read | None) -> Batch:
        """Each worker's rows to it, ids and label side by side."""
        n, share, fields = self._comm.world_size, self._share, self._dealt
        if read is None:
            message = torch.empty(0, fields + 1, dtype=torch.int64)
        else:
            labels = read.batch.labels.to(torch.int64)[:, None]
            message = torch.cat([read.batch.ids.view(-1, fields), labels], dim=1)
        own = torch.empty(share, fields + 1, dtype=torch.int64)
        others = [0] * (n - 1)
        self._comm.all_to_all("deal", own, message, [share, *others], [share * (read is not None)] * n).wait()
        return Batch.of_columns(own[:, :-1].contiguous(), own[:, -1].to(torch.float32))
