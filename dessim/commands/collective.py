"""One collective on an otherwise idle cluster: a simulated nccl-tests."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np

from dessim.cluster import Cluster
from dessim.collectives import Options, check_options
from dessim.collectives.alltoall import uneven_sizes
from dessim.collectives.closed_forms import algorithm_bandwidth, bus_bandwidth
from dessim.commands.support.spreads import bar_of
from dessim.errors import UsageError
from dessim.results.error_bar import ErrorBar
from dessim.sim.core.counters import Load
from dessim.sim.engine import NetworkName, simulate
from dessim.sim.faults.fault_file import Scenario
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.workload.dag import Workload
from dessim.workload.one_collective import one_collective

_REDUCTIONS = (Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.REDUCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRequest:
    """A collective to simulate: `op` on S = `size` bytes, as nccl-tests counts them, over the first `gpus` GPUs.

    `folding=False` simulates identical flows one by one; the result is the same.
    `network` is the model of the network (dessim.sim.engine.simulate).
    `options` are those of the algorithm: chunks, the root, the sides of a torus.
    `uneven` is a seed: each pair of ranks of an all_to_all then exchanges a random size, on average S per rank in all
    (dessim.collectives.alltoall.uneven_sizes).
    `tolerance` is the largest error of a stage, as a share of its time.
    `scenario` holds faults, at times from the start of the collective.
    """

    cluster: Cluster
    op: Collective
    gpus: int
    size: float
    algorithm: str = "auto"
    folding: bool = True
    network: NetworkName = "fluid"
    options: Options = field(default_factory=Options)
    uneven: int | None = None
    tolerance: float = 0.0
    scenario: Scenario | None = None


class CollectiveOptions(TypedDict, total=False):
    """The optional keyword arguments of `run_collective`: fields of `CollectiveRequest`."""

    options: Options
    uneven: int | None
    tolerance: float
    scenario: Scenario | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A simulated collective. `size` is in bytes as nccl-tests counts them (S).

    `events` counts the solutions of the rates. `flow_colours` and `link_colours` are the largest numbers of classes to
    which the messages of a stage and their links were folded. `error` bounds the relative error that a tolerance
    caused. `wall_s` is the simulator's own run time. `load` is the load of the links over time.
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
    bar: ErrorBar | None = None

    @property
    def algbw(self) -> float:
        """Algorithm bandwidth of nccl-tests, S / time, in bytes/s."""
        return algorithm_bandwidth(self.size, self.time_s)

    @property
    def busbw(self) -> float:
        """Bus bandwidth of nccl-tests in bytes/s, comparable with the rate of a link."""
        return bus_bandwidth(self.op, self.gpus, self.size, self.time_s)

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys. `wall_s` and `peak_rss_MiB` are the cost of the simulation itself."""
        return {
            "op": str(self.op),
            "gpus": self.gpus,
            "size_bytes": round(self.size),
            "count": round(self.size) // 4,
            "dtype": "float",
            "redop": "sum" if self.op in _REDUCTIONS else "none",
            "algorithm": self.algorithm,
            "time_s": self.time_s,
            "algbw_GBps": self.algbw / 1e9,
            "busbw_GBps": self.busbw / 1e9,
            "interval": self.bar.to_json(self.time_s) if self.bar else None,
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
    *,
    progress: Progress | None = None,
    routed: RouteCache | None = None,
    **options: Unpack[CollectiveOptions],
) -> Measurement:
    """Simulate a collective: `time_collective` of the `CollectiveRequest` that these arguments make."""
    request = CollectiveRequest(
        cluster=cluster,
        op=op,
        gpus=gpus,
        size=size,
        algorithm=algorithm,
        folding=folding,
        **options,
    )
    return time_collective(request, progress, routed)


def time_collective(
    request: CollectiveRequest, progress: Progress | None = None, routed: RouteCache | None = None
) -> Measurement:
    """Simulate a collective. `routed` has the routes of earlier ones on the same cluster; by default there are none.

    Raises UsageError, CapacityError, SimulationError where a fault disconnects GPUs for longer than its timeout, and
    OutOfTime when `progress` ends the run.
    """
    _check_request(request)
    workload = _workload(request)
    began = time.perf_counter()
    record = simulate(
        request.cluster,
        workload,
        {request.op: request.algorithm},
        routed=routed or RouteCache(request.cluster, request.folding, request.tolerance),
        options=request.options,
        progress=progress,
        faults=request.scenario.faults if request.scenario is not None else None,
        network=request.network,
    )
    # Ranks of the packet network end one by one; the collective takes until the last has.
    last = max(record.spans, key=lambda span: span.end)
    return Measurement(
        op=request.op,
        gpus=request.gpus,
        size=request.size,
        algorithm=last.algorithm or "",
        time_s=last.end - min(span.start for span in record.spans),
        bound_by=last.bound_by,
        events=record.solves,
        flow_colours=record.flow_colours,
        link_colours=record.link_colours,
        error=record.error,
        wall_s=time.perf_counter() - began,
        load=record.load,
        bar=_error_bar(request),
    )


def _error_bar(request: CollectiveRequest) -> ErrorBar | None:
    """The error bar of the collective, from the spread of its transport; None where that is not known."""
    options = request.options
    overridden = request.algorithm != "auto" or options.protocol or options.channels is not None
    # The curves of a calibration hold for NCCL's own choice.
    spread = request.cluster.transport.spread if overridden else None
    per_process = options.gpus_per_process
    return bar_of(
        request.cluster, request.op, request.size, gpus=range(request.gpus), spread=spread, gpus_per_process=per_process
    )


def _check_request(request: CollectiveRequest) -> None:
    """Raise UsageError or CapacityError for a collective that cannot be run."""
    request.cluster.require(request.gpus)
    if request.gpus < 2:
        raise UsageError(f"--gpus {request.gpus}: a collective needs at least 2 GPUs")
    if not 0 < request.size < math.inf:
        raise UsageError("--size must be more than 0 bytes, and finite")
    if request.scenario is not None and request.scenario.stragglers is not None:
        raise UsageError("--faults: [stragglers] and [[slow_gpu]] slow compute, and a collective alone has none")
    options = request.options
    if options.chunks is not None and options.chunks < 1:
        raise UsageError(f"--chunks {options.chunks}: at least one chunk is needed")
    _check_auto(request)
    check_options(
        request.op,
        request.algorithm,
        chunks=options.chunks is not None,
        root=options.root != 0,
        dims=bool(options.dims),
        sizes=request.uneven is not None,
    )


def _check_auto(request: CollectiveRequest) -> None:
    """Raise UsageError for options that `auto` cannot use."""
    chunks = request.options.chunks
    dims = request.options.dims
    if request.algorithm != "auto" or (chunks is None and not dims):
        return
    flag = "--dims" if dims else "--chunks"
    if request.cluster.transport.nccl is not None and request.network == "fluid":
        raise UsageError(
            f"{flag} has no effect on what NCCL chooses; leave it out, or name an --algorithm that uses it"
        )
    if dims and math.prod(dims) != request.gpus:
        raise UsageError(f"--dims {'x'.join(map(str, dims))} are not factors of {request.gpus} ranks")


def _workload(request: CollectiveRequest) -> Workload:
    """The collective alone. Ranks form one class, unless their sizes are uneven."""
    splits = None
    if request.uneven is not None:
        rng = np.random.default_rng(request.uneven)
        splits = uneven_sizes(request.gpus, request.size, rng).tolist()  # [sender][receiver]
    return one_collective(request.op, request.gpus, request.size, splits=splits)
