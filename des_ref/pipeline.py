"""Steps in a row, the next batch on its way while one trains.

    this thread    step 0          step 1          step 2
    the other      send batch 1    send batch 2    send batch 3

What runs ahead is whatever needs nothing but the samples: reading them, and `Strategy.send`, which is every op of
Phase.INPUT (ids to the owners of their rows, labels). Rows are looked up in their own step, after the update of the
step before, so training is the same to the last bit. A step is over when both threads are: the next one starts with
its ids at hand, and the time of a step is the longer of the two.

The other thread has a process group of its own, because collectives of one group run in the order they are issued, and
on a GPU a stream of its own. (TorchRec's TrainPipelineSparseDist does the same with streams and one thread.)

Left out: looking further ahead than one batch. Under nccl the kernels of both groups share a GPU's processors; how well
they do on several GPUs was not measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from des_ref.comm import Comm
from des_ref.data.batch import Batch, Source
from des_ref.strategies.base import Lane, StepResult, Strategy
from dessim.trace.schema import PREFETCH

Watch = Callable[[], AbstractContextManager[None]]


def endless(
    source: Source, samples: int, comm: Comm, steps: int = 0, share: Callable[[Batch], Batch] | None = None
) -> Iterator[tuple[int, Batch]]:
    """(epoch, this worker's share of a global batch of `samples`), epoch after epoch, as if after so many steps.

    With `share` the whole batch is read, and that says which samples are this worker's.
    """
    start, first = divmod(steps, source.train_samples // samples)
    part = (comm.rank, comm.world_size) if share is None else (0, 1)
    for epoch in count(start):
        for batch in source.batches(epoch, samples, *part, first if epoch == start else 0):
            yield epoch, batch if share is None else share(batch)


@dataclass(frozen=True, slots=True)
class _Ready:
    epoch: int
    batch: Batch
    sent: Any = None


class Pipeline:
    """Trains on `batches`. Where they do not end, the last step sends one that nobody trains on.

    `lane` is the other thread's, with a group of its own (`Lane(comm.beside(PREFETCH))`); without one a step reads,
    sends and trains one after the other. `watch_first` is entered around the first batch's `send`. `ahead_s` are
    CPU seconds that the other thread has worked.
    """

    def __init__(
        self,
        strategy: Strategy,
        comm: Comm,
        batches: Iterator[tuple[int, Batch]],
        lane: Lane | None,
        watch_first: Watch = nullcontext,
    ) -> None:
        self._strategy, self._device, self._batches, self.lane = strategy, comm.device, batches, lane
        self.ahead_s = 0.0
        self._pool = ThreadPoolExecutor(1, PREFETCH) if lane is not None else None
        self._side = torch.cuda.Stream(comm.device) if lane is not None and comm.device.type == "cuda" else None
        self._next = self._read() if self._pool is None else self._pool.submit(self._send, watch_first, None).result()

    @property
    def is_over(self) -> bool:
        """Whether there is no batch for another step."""
        return self._next is None

    @property
    def epoch(self) -> int:
        """The epoch of the next step."""
        return self._ready.epoch

    @property
    def batch(self) -> Batch:
        """What the next step trains on."""
        return self._ready.batch

    @property
    def _ready(self) -> _Ready:
        assert self._next is not None, "the batches are at their end"
        return self._next

    def step(self, watch: Watch = nullcontext, watch_ahead: Watch = nullcontext) -> StepResult:
        """One training step. Each watch is entered around what its thread does."""
        now = self._ready
        if self._pool is None:
            with watch():
                following = self._read()
                result = self._strategy.step(now.batch)
        else:
            main = torch.cuda.current_stream(self._device) if self._side is not None else None
            under_way = self._pool.submit(self._send, watch_ahead, main)
            with watch():
                result = self._strategy.step(now.batch, now.sent)
            following = under_way.result()
        self._next = following
        return result

    def close(self) -> None:
        """Let the other thread go. Between steps it has nothing to do; after a failed one it is not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self) -> _Ready | None:
        for epoch, batch in self._batches:
            return _Ready(epoch, batch.to(self._device))
        return None

    def _send(self, watch: Watch, main: torch.cuda.Stream | None) -> _Ready | None:
        """What the other thread does. On a GPU too, all of it is done when this returns."""
        began = time.thread_time()
        with self._on_side_stream(main), watch():
            ready = self._read()
            if ready is not None:
                ready = _Ready(ready.epoch, ready.batch, self._strategy.send(ready.batch, self.lane))
        self.ahead_s += time.thread_time() - began
        return ready

    @contextmanager
    def _on_side_stream(self, main: torch.cuda.Stream | None) -> Iterator[None]:
        if self._side is None:
            yield
            return
        torch.cuda.set_device(self._device)
        if main is not None:
            # Memory of batches that are done with is used again here: not before the steps that read it have run.
            self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            yield
        self._side.synchronize()
