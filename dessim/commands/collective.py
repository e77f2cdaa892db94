"""One collective on an otherwise idle cluster: nccl-tests, simulated."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from dessim.cluster import Cluster
from dessim.collectives import Options, check_options
from dessim.collectives.alltoall import uneven_sizes
from dessim.collectives.closed_forms import algorithm_bandwidth, bus_bandwidth
from dessim.errors import UsageError
from dessim.sim.core.counters import Load
from dessim.sim.engine import simulate
from dessim.sim.faults.fault_file import Scenario
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.workload.dag import Workload
from dessim.workload.one_collective import one_collective

_SUMS = (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.REDUCE)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A simulated collective. Sizes in bytes as nccl-tests counts them (S), rates in bytes/s.

    `events` is how often rates were solved; `flow_colours` and `link_colours` are what the messages of a stage were
    folded to at most, `error` how far a tolerance may have put the time off, `wall_s` the simulator's own time.
    `load` is what links carried.
    """

    op: Collective
    gpus: int
    size: float
    algorithm: str
    time_s: float
    bound_by: str
    events: int
    flow_colours: int
    link_colours: int
    error: float
    wall_s: float
    load: Load

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
            "redop": "sum" if self.op in _SUMS else "none",
            "algorithm": self.algorithm,
            "time_s": self.time_s,
            "algbw_GBps": self.algbw / 1e9,
            "busbw_GBps": self.busbw / 1e9,
            "bound_by": self.bound_by,
            "events": self.events,
            "flow_colours": self.flow_colours,
            "link_colours": self.link_colours,
            "error_bound": self.error,
            "wall_s": self.wall_s,
            "peak_rss_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def run_collective(
    cluster: Cluster,
    op: Collective,
    gpus: int,
    size: float,
    algorithm: str = "auto",
    folding: bool = True,
    options: Options | None = None,
    uneven: int | None = None,
    tolerance: float = 0.0,
    progress: Progress | None = None,
    scenario: Scenario | None = None,
) -> Measurement:
    """Run `op` on S = `size` bytes over the first `gpus` GPUs.

    `uneven` is a seed: each pair of an all_to_all then exchanges a size of its own, S a rank on average
    (dessim.collectives.alltoall.uneven_sizes). `tolerance` is how far a stage may be off, as a share of its time.
    `scenario` says what goes wrong meanwhile. Raises UsageError, CapacityError, SimulationError where a fault cuts GPUs
    off for too long, and OutOfTime when `progress` says so.
    """
    cluster.require(gpus)
    if gpus < 2:
        raise UsageError(f"--gpus {gpus}: a collective needs at least 2 GPUs")
    if size <= 0:
        raise UsageError("--size must be more than 0 bytes")
    if scenario is not None and scenario.stragglers is not None:
        raise UsageError("--faults: [stragglers] and [[slow_gpu]] slow compute, and a collective alone has none")
    faults = scenario.faults if scenario is not None else None
    options = options or Options()
    if options.chunks is not None and options.chunks < 1:
        raise UsageError(f"--chunks {options.chunks}: at least one chunk is needed")
    check_options(
        op,
        algorithm,
        chunks=options.chunks is not None,
        root=options.root != 0,
        dims=bool(options.dims),
        sizes=uneven is not None,
    )
    workload = _workload(op, gpus, size, uneven)
    began = time.perf_counter()
    routed = RouteCache(cluster, folding, tolerance)
    record = simulate(
        cluster, workload, {op: algorithm}, routed=routed, options=options, progress=progress, faults=faults
    )
    span = record.spans[0]
    return Measurement(
        op=op,
        gpus=gpus,
        size=size,
        algorithm=span.algorithm or "",
        time_s=span.end - span.start,
        bound_by=span.bound_by,
        events=record.solves,
        flow_colours=record.flow_colours,
        link_colours=record.link_colours,
        error=record.error,
        wall_s=time.perf_counter() - began,
        load=record.load,
    )


def _workload(op: Collective, gpus: int, size: float, uneven: int | None) -> Workload:
    """The collective alone; `uneven` seeds the random sizes of its messages."""
    if uneven is None:
        return one_collective(op, gpus, size)
    return one_collective(op, gpus, size, splits=uneven_sizes(gpus, size, np.random.default_rng(uneven)).tolist())
