"""Seconds of a call on a device, repeated until the clock's resolution and the launches no longer matter.

The fastest of several batches of calls counts, because other programs on the machine can only slow a batch down.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Clock:
    """Times calls on `device`. A measurement takes about `budget_s` seconds; a call that is longer is timed once."""

    device: torch.device
    budget_s: float = 0.2
    batches: int = 5

    def seconds(self, call: Call) -> float:
        """Seconds of one call among many that follow each other, after a warm-up."""
        call()
        once = self._batch(call, 1)
        if once > self.budget_s:
            return once
        count = max(1, min(1000, int(self.budget_s / self.batches / max(once, 1e-7))))
        return min(self._batch(call, count) / count for _ in range(self.batches))

    def host_seconds(self, call: Call, count: int = 500) -> float:
        """Seconds in which the host issues one call, while the device need not keep up."""
        call()
        return min(self._host_batch(call, count) / count for _ in range(self.batches))

    def graph_seconds(self, call: Call, count: int = 200) -> float | None:
        """Seconds of one call in a CUDA graph of `count` of them; None if the device has no graphs."""
        if self.device.type != "cuda":
            return None
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            call()  # memory and libraries must be ready before a capture
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(count):
                call()
        return self.seconds(graph.replay) / count

    def _batch(self, call: Call, count: int) -> float:
        if self.device.type != "cuda":
            return self._host_batch(call, count)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def _host_batch(self, call: Call, count: int) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - start
