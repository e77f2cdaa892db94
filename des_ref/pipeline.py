"""Runs training steps, and sends the next batch's ids while a step runs.

    this thread    step 0          step 1          step 2
    other thread   send batch 1    send batch 2    send batch 3

The other thread does what needs the samples only: it reads them and runs `Strategy.send`, which covers every op of
Phase.INPUT (ids to the owners of their rows, labels). Rows are looked up in their own step, after the update of the
step before, so training is bit-identical to training without the pipeline. A step ends when both threads are done: the
next one starts with its ids at hand, and a step takes the longer of the two times.

The other thread has its own process group, because collectives of one group run in the order in which they are issued,
and on a GPU its own stream. (TorchRec's TrainPipelineSparseDist does the same with streams and one thread.)

Left out: working more than one batch ahead. Under nccl, the kernels of both groups share a GPU's processors; their
effect on each other on several GPUs has not been measured.
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
    """(epoch, this worker's share of a global batch of `samples`), epoch after epoch, as if after `steps` steps.

    With `share`, the whole batch is read, and `share` picks this worker's samples from it.
    """
    first_epoch, first_batch = divmod(steps, source.train_samples // samples)
    rank, world_size = (comm.rank, comm.world_size) if share is None else (0, 1)
    for epoch in count(first_epoch):
        start = first_batch if epoch == first_epoch else 0
        for batch in source.batches(epoch, samples, rank, world_size, start):
            yield epoch, batch if share is None else share(batch)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch to train on, and what `Strategy.send` returned for it."""

    epoch: int
    batch: Batch
    sent: Any = None


class Pipeline:
    """Trains on `batches`. If they never end, the last step sends a batch that is not trained on.

    `lane` is that of the other thread, with its own process group (`Lane(comm.beside(PREFETCH))`); without one, a step
    reads, sends and trains in sequence. `watch_first` is entered around sending the first batch. `ahead_s` counts the
    CPU seconds of the other thread.
    """

    def __init__(
        self,
        strategy: Strategy,
        comm: Comm,
        batches: Iterator[tuple[int, Batch]],
        lane: Lane | None,
        watch_first: Watch = nullcontext,
    ) -> None:
        self._strategy = strategy
        self._device = comm.device
        self._batches = batches
        self.lane = lane
        self.ahead_s = 0.0
        self._pool = ThreadPoolExecutor(1, PREFETCH) if lane is not None else None
        self._side = torch.cuda.Stream(comm.device) if lane is not None and comm.device.type == "cuda" else None
        self._next = self._read() if self._pool is None else self._pool.submit(self._send, watch_first, None).result()

    @property
    def has_ended(self) -> bool:
        """Whether there is no batch for another step."""
        return self._next is None

    @property
    def epoch(self) -> int:
        """The epoch of the next step."""
        return self._ready.epoch

    @property
    def batch(self) -> Batch:
        """The batch of the next step."""
        return self._ready.batch

    @property
    def _ready(self) -> _Ready:
        assert self._next is not None, "there are no more batches"
        return self._next

    def step(self, watch: Watch = nullcontext, watch_ahead: Watch = nullcontext) -> StepResult:
        """Run one training step. Each watch is entered around the work of its thread."""
        current = self._ready
        if self._pool is None:
            with watch():
                following = self._read()
                result = self._strategy.step(current.batch)
        else:
            main_stream = torch.cuda.current_stream(self._device) if self._side is not None else None
            sending = self._pool.submit(self._send, watch_ahead, main_stream)
            with watch():
                result = self._strategy.step(current.batch, current.sent)
            following = sending.result()
        self._next = following
        return result

    def close(self) -> None:
        """Release the other thread without waiting for it. It is idle between steps; a failed step may block it."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self) -> _Ready | None:
        for epoch, batch in self._batches:
            return _Ready(epoch, batch.to(self._device))
        return None

    def _send(self, watch: Watch, main_stream: torch.cuda.Stream | None) -> _Ready | None:
        """Read and send the next batch, in the other thread. All of it is done on return, also on a GPU."""
        started_at = time.thread_time()
        with self._on_side_stream(main_stream), watch():
            ready = self._read()
            if ready is not None:
                ready = _Ready(ready.epoch, ready.batch, self._strategy.send(ready.batch, self.lane))
        self.ahead_s += time.thread_time() - started_at
        return ready

    @contextmanager
    def _on_side_stream(self, main_stream: torch.cuda.Stream | None) -> Iterator[None]:
        if self._side is None:
            yield
            return
        torch.cuda.set_device(self._device)
        if main_stream is not None:
            # Memory of earlier batches is reused here, so wait for the steps that read it.
            self._side.wait_stream(main_stream)
        with torch.cuda.stream(self._side):
            yield
        self._side.synchronize()
