"""Runs training steps, and sends the next batch's ids while a step runs.

    this thread    step 0          step 1          step 2
    other thread   send batch 1    send batch 2    send batch 3

The other thread does what needs the samples only: it reads them and runs `Strategy.send`, which covers every op of
Phase.INPUT (ids to the owners of their rows, labels). Rows are looked up in their own step, after the update of the
step before, so training is bit-identical to training without the pipeline. A step ends when both threads are done, so
it takes the longer of the two times, and the ids of the next step have already been sent.

The other thread has its own process group, because collectives of one group run in the order in which they are issued.

On a GPU, kernels of two NCCL communicators may wait for each other for ever if two threads issue them in different
orders on different ranks. There *this* thread issues everything: the next batch is sent, on a separate stream, as
soon as a step has been issued, while the GPU still works on it. The other thread only reads the samples, into pinned
memory. (TorchRec's TrainPipelineSparseDist does the same.)

    this thread    issue step 0 | send batch 1 | issue step 1 | send batch 2
    other thread   read batch 1                  read batch 2

Left out: working more than one batch ahead. Under NCCL, the kernels of both groups share a GPU's processors; their
effect on each other on several GPUs has not been measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch

from des_ref.async_device import is_asynchronous
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

    `lane` is that of the other thread, with its own process group (`Lane(comm.separate_group(PREFETCH))`); without one,
    a step reads, sends and trains in sequence. `watch_first` is entered around sending the first batch. `ahead_s`
    counts the CPU seconds of the other thread.
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
        self._issues_here = lane is not None and is_asynchronous(comm.device)
        is_cuda = comm.device.type == "cuda"
        # Without it, pinning memory in the other thread would use the first GPU.
        on_start = partial(torch.cuda.set_device, comm.device) if is_cuda else None
        self._pool = ThreadPoolExecutor(1, PREFETCH, initializer=on_start) if lane is not None else None
        self._side = torch.cuda.Stream(comm.device) if lane is not None and is_cuda else None
        if lane is not None:
            strategy.attach(lane.comm)
        if self._pool is None:
            self._next = self._on_device(self._read())
        elif self._issues_here:
            self._next = self._send(self._read(), watch_first)
        else:
            self._next = self._pool.submit(self._read_and_send, watch_first).result()

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
                following = self._on_device(self._read())
                result = self._strategy.step(current.batch)
        elif self._issues_here:
            reading = self._pool.submit(self._read_ahead)
            before = self._event()
            with watch():
                result = self._strategy.step(current.batch, current.sent)
            following = self._send(reading.result(), watch_ahead, before)
        else:
            sending = self._pool.submit(self._read_and_send, watch_ahead)
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
        """The next batch, in host memory."""
        for epoch, batch in self._batches:
            return _Ready(epoch, batch.pinned() if self._device.type == "cuda" else batch)
        return None

    def _on_device(self, ready: _Ready | None) -> _Ready | None:
        is_pinned = is_asynchronous(self._device)
        return None if ready is None else replace(ready, batch=ready.batch.to(self._device, non_blocking=is_pinned))

    def _read_ahead(self) -> _Ready | None:
        """Runs in the other thread."""
        started_at = time.thread_time()
        ready = self._read()
        self.ahead_s += time.thread_time() - started_at
        return ready

    def _read_and_send(self, watch: Watch) -> _Ready | None:
        """Runs in the other thread."""
        started_at = time.thread_time()
        with watch():
            ready = self._on_device(self._read())
            if ready is not None:
                ready = replace(ready, sent=self._strategy.send(ready.batch, self.lane))
        self.ahead_s += time.thread_time() - started_at
        return ready

    def _send(self, read: _Ready | None, watch: Watch, before: torch.cuda.Event | None = None) -> _Ready | None:
        """Copy a batch to the device and send it, in this thread. Later work on the device waits for it."""
        with self._on_side_stream(before), watch():
            ready = self._on_device(read)
            return None if ready is None else replace(ready, sent=self._strategy.send(ready.batch, self.lane))

    def _event(self) -> torch.cuda.Event | None:
        """An event recorded after all work that this thread has issued to the GPU so far."""
        return torch.cuda.current_stream(self._device).record_event() if self._side is not None else None

    @contextmanager
    def _on_side_stream(self, before: torch.cuda.Event | None) -> Iterator[None]:
        if self._side is None:
            yield
            return
        if before is not None:
            # Memory of earlier batches is reused here, so wait for the steps that read it.
            self._side.wait_event(before)
        with torch.cuda.stream(self._side):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._side)
