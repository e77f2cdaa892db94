"""A GPU: streams that run one op at a time, how long compute takes on it, and what communication takes from that.

The roofline is a lower bound times an achievable share (`Gpu.efficiency_*`): good for ratios between strategies, not
for absolute times of a kernel nobody measured (Williams, Waterman and Patterson, 2009).

A collective's kernel occupies some of the processors that compute wants (NCCL: one SM a channel). While one moves data,
compute goes on at the rate 1 - `Gpu.comm_sm_share`, whatever bounds it; several at once take no more than one. Left
out: the SMs that a kernel holds while it waits for a late rank, and the memory bandwidth it uses. Times recorded on a
machine have its share in them already: replay them there with a share of 0.

Ranks that are processes on one machine's cores take turns on them (cores.py).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import simpy

from dessim.cluster import Gpu
from dessim.sim.core.cores import Cores


@dataclass(slots=True, eq=False)
class _Work:
    """A compute op under way: seconds of work left at full rate, as of the time `since`."""

    op: int
    left: float
    since: float


class Device:
    """The streams of one GPU, or of a class of GPUs that do the same. Streams are made when first used.

    `comm_sm_share` in [0, 1) is the share of its processors that a collective holds while it moves data. It
    computes on `cores`; None: on its own. So many `threads` run the collectives of each stream; 0: the stream does.
    `number` tells devices that share cores apart.
    """

    def __init__(
        self,
        env: simpy.Environment,
        comm_sm_share: float = 0.0,
        cores: Cores | None = None,
        threads: int = 0,
        number: int = 0,
    ) -> None:
        self._env, self._cores, self._threads, self._number = env, cores, threads, number
        self._streams: dict[tuple[str, bool], simpy.Resource] = {}
        self._share = comm_sm_share
        self._moving = 0  # collectives that move data now
        self._held = False
        self._rate = 1.0
        self._works: list[_Work] = []
        self._changed = env.event()  # fires when compute's rate changes

    def stream(self, name: str, collective: bool = False) -> simpy.Resource:
        """A queue of ops: requests are served in the order they were issued, as on a CUDA stream. Threads instead of a
        stream run its collectives beside its other ops."""
        threads = self._threads if collective else 0
        key = name, threads > 0
        if key not in self._streams:
            self._streams[key] = simpy.Resource(self._env, capacity=max(threads, 1))
        return self._streams[key]

    def begin_communication(self) -> None:
        """A collective of this GPU starts to move data."""
        self._moving += 1
        self.turn()

    def end_communication(self) -> None:
        """A collective of this GPU is over."""
        self._moving -= 1
        self.turn()

    def hold(self, held: bool) -> None:
        """Stop computing, or go on: for time that is skipped because it is known what happens in it."""
        self._held = held
        self.turn()

    def left(self) -> list[float]:
        """Seconds of work at full rate left of each compute op under way, in the order of their numbers."""
        works = sorted(self._works, key=lambda work: work.op)
        return [max(work.left - (self._env.now - work.since) * self._rate, 0.0) for work in works]

    def compute(self, seconds: float, op: int = 0) -> Generator[simpy.Event, object, None]:
        """A process: `seconds` of work at the full rate, which takes longer where communication goes on beside it.

        `op` is the number of the op among the GPU's.
        """
        if self._cores is not None:
            yield from self._cores.run(seconds, (self._number << 24) + op)
            return
        work = _Work(op, seconds, self._env.now)
        self._works.append(work)
        while True:
            done = self._env.timeout(work.left / self._rate) if self._rate > 0 else self._env.event()
            yield done | self._changed
            if done.processed:
                break
        self._works.remove(work)

    def turn(self) -> None:
        """Compute goes on at the rate that is right now."""
        rate = 0.0 if self._held else 1 - self._share if self._moving else 1.0
        if rate == self._rate:
            return
        self._works.sort(key=lambda work: work.op)
        for work, left in zip(self._works, self.left(), strict=True):
            work.left, work.since = left, self._env.now
        self._rate = rate
        self._changed.succeed()
        self._changed = self._env.event()


def roofline(gpu: Gpu, flops: float, memory_bytes: float, kernels: float) -> float:
    """Seconds for `flops` FLOPs and `memory_bytes` of traffic: `kernels` launches, then the slower of the two."""
    arithmetic = flops / (gpu.flops * gpu.efficiency_flops)
    traffic = memory_bytes / (gpu.memory_bandwidth * gpu.efficiency_memory)
    return kernels * gpu.launch_overhead + max(arithmetic, traffic)
