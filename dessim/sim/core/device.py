"""A GPU: streams that run one op at a time, the time that compute takes, and what communication takes from compute.

The roofline is a lower bound times an achievable share (`Gpu.efficiency_*`): good for ratios between strategies, not
for absolute times of a kernel that was never measured (Williams, Waterman and Patterson, 2009).

A collective's kernel occupies some of the processors that compute needs (NCCL: one SM per channel). While a collective
moves data, compute continues at the rate 1 - `Gpu.comm_sm_share`, whatever bounds it; several collectives together take
no more than one. Left out: the SMs that a kernel holds while it waits for a late rank, and the memory bandwidth it
uses. Compute times that were recorded beside collectives already contain this share: replay them with a share of 0.

Ranks that are processes on one machine take turns on its cores instead (cores.py).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import simpy

from dessim.cluster import Gpu
from dessim.compute import Precision
from dessim.sim.core.cores import Cores

_OPS_PER_DEVICE_BITS = 24


@dataclass(slots=True, eq=False)
class _ComputeOp:
    """A compute op in progress: at time `since` [s], `left` seconds of work at full rate were left."""

    index: int
    left: float
    since: float


class Device:
    """The streams of one GPU, or of a class of identical GPUs. Streams are created on first use.

    `comm_sm_share` in [0, 1) is the share of the GPU's processors that a collective holds while it moves data. With
    `cores` the device computes on those cores, and `number` distinguishes it from the other devices on them. With
    `threads` > 0 that many threads run the collectives of each stream; otherwise the stream itself does.
    """

    def __init__(
        self,
        env: simpy.Environment,
        comm_sm_share: float = 0.0,
        cores: Cores | None = None,
        threads: int = 0,
        number: int = 0,
    ) -> None:
        self._env = env
        self._comm_sm_share = comm_sm_share
        self._cores = cores
        self._threads = threads
        self._number = number
        self._streams: dict[tuple[str, bool], simpy.Resource] = {}
        self._moving = 0  # collectives that move data now
        self._held = False
        self._rate = 1.0
        self._ops: list[_ComputeOp] = []
        self._rate_changed = env.event()

    def stream(self, name: str, collective: bool = False) -> simpy.Resource:
        """The queue of a stream: requests are served in issue order, as on a CUDA stream.

        Where threads run collectives, those have a queue beside that of the stream's other ops.
        """
        threads = self._threads if collective else 0
        key = name, threads > 0
        if key not in self._streams:
            self._streams[key] = simpy.Resource(self._env, capacity=max(threads, 1))
        return self._streams[key]

    def begin_communication(self) -> None:
        """A collective of this GPU starts to move data."""
        self._moving += 1
        self._update_rate()

    def end_communication(self) -> None:
        """A collective of this GPU has moved all of its data."""
        self._moving -= 1
        self._update_rate()

    def hold(self, held: bool) -> None:
        """Stop (`held`) or resume computing. The steady state skips simulated time in between."""
        self._held = held
        self._update_rate()

    def left(self) -> list[float]:
        """Seconds of work at full rate that each compute op in progress has left, by op number."""
        ops = sorted(self._ops, key=lambda op: op.index)
        return [max(op.left - (self._env.now - op.since) * self._rate, 0.0) for op in ops]

    def compute(self, seconds: float, op: int = 0) -> Generator[simpy.Event, object, None]:
        """A process: `seconds` of work at full rate; longer while communication runs beside it.

        `op` is the number of the op among the GPU's.
        """
        if self._cores is not None:
            yield from self._cores.run(seconds, thread=(self._number << _OPS_PER_DEVICE_BITS) + op)
            return
        running = _ComputeOp(op, seconds, self._env.now)
        self._ops.append(running)
        while True:
            done = self._env.timeout(running.left / self._rate) if self._rate > 0 else self._env.event()
            yield done | self._rate_changed
            if done.processed:
                break
        self._ops.remove(running)

    def _update_rate(self) -> None:
        if self._held:
            rate = 0.0
        elif self._moving:
            rate = 1 - self._comm_sm_share
        else:
            rate = 1.0
        if rate == self._rate:
            return
        self._ops.sort(key=lambda op: op.index)
        for op, left in zip(self._ops, self.left(), strict=True):
            op.left = left
            op.since = self._env.now
        self._rate = rate
        self._rate_changed.succeed()
        self._rate_changed = self._env.event()


def roofline(
    gpu: Gpu, flops: float, memory_bytes: float, kernels: float, precision: Precision = Precision.FP32
) -> float:
    """Seconds for `flops` FLOPs and `memory_bytes` of traffic: `kernels` launches, then the slower of the two."""
    arithmetic = flops / gpu.rate(precision)
    traffic = memory_bytes / (gpu.memory_bandwidth * gpu.efficiency_memory)
    return kernels * gpu.launch_overhead + max(arithmetic, traffic)
