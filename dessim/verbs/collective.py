"""One collective on an otherwise idle cluster: nccl-tests, simulated."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

from dessim.cluster import Cluster
from dessim.collectives.closed_forms import algorithm_bandwidth, bus_bandwidth
from dessim.errors import UsageError
from dessim.sim.engine import simulate
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import RankClass, Task, Workload
from dessim.workload.from_plan import WORLD


@dataclass(frozen=True, slots=True)
class Measurement:
    """A simulated collective. Sizes in bytes as nccl-tests counts them (S), rates in bytes/s."""

    op: Collective
    gpus: int
    size: float
    algorithm: str
    time_s: float
    bound_by: str
    solves: int
    wall_s: float

    @property
    def algbw(self) -> float:
        return algorithm_bandwidth(self.size, self.time_s)

    @property
    def busbw(self) -> float:
        return bus_bandwidth(self.op, self.gpus, self.size, self.time_s)

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys. `wall_s` and `peak_rss_MiB` are the simulator's own cost."""
        return {
            "op": str(self.op),
            "gpus": self.gpus,
            "size_bytes": round(self.size),
            "count": round(self.size) // 4,
            "dtype": "float",
            "redop": "sum" if self.op in (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER) else "none",
            "algorithm": self.algorithm,
            "time_s": self.time_s,
            "algbw_GBps": self.algbw / 1e9,
            "busbw_GBps": self.busbw / 1e9,
            "bound_by": self.bound_by,
            "solves": self.solves,
            "wall_s": self.wall_s,
            "peak_rss_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def run_collective(
    cluster: Cluster, op: Collective, gpus: int, size: float, algorithm: str = "auto", folding: bool = True
) -> Measurement:
    """Run `op` on S = `size` bytes over the first `gpus` GPUs. Raises UsageError, CapacityError."""
    cluster.require(gpus)
    if gpus < 2:
        raise UsageError(f"--gpus {gpus}: a collective needs at least 2 GPUs")
    if size <= 0:
        raise UsageError("--size must be more than 0 bytes")
    ranks = range(gpus)
    task = Task(str(op), 0, Phase.FORWARD, Kind.COLLECTIVE, "comm", collective=op, group=WORLD, size=size)
    workload = Workload(str(op), gpus, (RankClass(ranks, (task,)),), {WORLD: ranks}, (0,))
    began = time.perf_counter()
    record = simulate(cluster, workload, {op: algorithm}, folding)
    span = record.spans[0]
    return Measurement(
        op=op,
        gpus=gpus,
        size=size,
        algorithm=span.algorithm or "",
        time_s=span.end - span.start,
        bound_by=span.bound_by,
        solves=record.solves,
        wall_s=time.perf_counter() - began,
    )
