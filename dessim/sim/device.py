"""A GPU: streams that run one op at a time, and how long compute takes on it.

The roofline is a lower bound times an achievable share (`Gpu.efficiency_*`): good for ratios between strategies, not
for absolute times of a kernel nobody measured (Williams, Waterman and Patterson, 2009).
"""

from __future__ import annotations

import simpy

from dessim.cluster import Gpu


class Device:
    """The streams of one GPU, or of a class of GPUs that do the same. Streams are made when first used."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._streams: dict[str, simpy.Resource] = {}

    def stream(self, name: str) -> simpy.Resource:
        """A queue of ops: requests are served in the order they were issued, as on a CUDA stream."""
        if name not in self._streams:
            self._streams[name] = simpy.Resource(self._env, capacity=1)
        return self._streams[name]


def roofline(gpu: Gpu, flops: float, memory_bytes: float, kernels: float) -> float:
    """Seconds for `flops` FLOPs and `memory_bytes` of traffic: `kernels` launches, then the slower of the two."""
    arithmetic = flops / (gpu.flops * gpu.efficiency_flops)
    traffic = memory_bytes / (gpu.memory_bandwidth * gpu.efficiency_memory)
    return kernels * gpu.launch_overhead + max(arithmetic, traffic)
