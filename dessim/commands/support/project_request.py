"""The request for a projection, and the requests that are refused before the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dessim.cluster import Cluster
from dessim.collectives.gloo import NAME as GLOO
from dessim.commands.support.dedicated_servers import Servers, check_servers, default_servers
from dessim.errors import UsageError
from dessim.sim.engine import NetworkName
from dessim.sim.faults.fault_file import Scenario
from dessim.sim.packet.model import supports_packet_model
from dessim.trace.schema import Collective
from dessim.workload.codecs import CodecConfig
from dessim.workload.coded_plan import require_floats
from dessim.workload.plan import Plan
from dessim.workload.scale import Job
from dessim.workload.strategies import spec_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRequest:
    """A job to project: one row for each of `strategies`, then of `composed`, at each number of `gpus`.

    `batch_per_worker` defaults to the job's own. It is the same at every scale (weak scaling).
    `algorithms` fixes the algorithm of a collective; the others use `auto`.
    `error_bar` is the relative error measured where the job was recorded, if it was.
    `folding=False` simulates identical flows one by one; the result is the same.
    `network` is the model of the network (dessim.sim.engine.simulate). With "packet" a row has the median of several
    steps and runs (dessim.commands.support.median_step); `rough` rows have few steps of one run.
    `spill` lets rows that do not fit a GPU live in its host's memory.
    `servers` are hosts that hold the tables of `ps_*` strategies, by default as many as the workers have (up to 128
    workers, while hosts are free). With None `ps_sync` has a server on each worker, which answers at once.
    `pipeline` sends the next step's ids while a step runs, as the trainer does.
    `graphs`: CUDA graphs launch the kernels of a step; otherwise the host launches each.
    `scenario` holds faults and stragglers, at times from the start of the step.
    `codecs` are the formats in which values travel.
    `composed` are plans of groups of tables (dessim.workload.composed), which name owners for some number of GPUs.
    """

    job: Job
    cluster: Cluster
    strategies: Sequence[str]
    gpus: Sequence[int]
    batch_per_worker: int | None = None
    algorithms: Mapping[Collective, str] | None = None
    error_bar: float | None = None
    folding: bool = True
    network: NetworkName = "fluid"
    rough: bool = False
    spill: bool = False
    servers: Servers | None = field(default_factory=default_servers)
    pipeline: bool = True
    graphs: bool = False
    scenario: Scenario | None = None
    codecs: CodecConfig | None = None
    composed: Sequence[Plan] = ()


def check_request(request: ProjectRequest) -> None:
    """Raise UsageError for options that contradict each other."""
    if not (request.strategies or request.composed) or not request.gpus:
        raise UsageError("name at least one strategy and one number of GPUs")
    if request.spill and request.composed:
        raise UsageError(
            "--spill: the plan of groups of tables says itself which are spilt (its key cached_rows); leave --spill out"
        )
    check_servers(request.strategies, request.servers)
    asked_for = request.servers is not None and request.servers.count > 0
    if asked_for and request.scenario is not None:
        raise UsageError("--faults and --servers: faults are not modelled for dedicated servers; leave one of them out")
    dedicated = asked_for or any(spec_of(name).dedicated_servers for name in request.strategies)
    if request.codecs and dedicated:
        raise UsageError(f"--codec {request.codecs}: ps_async and dedicated servers send values unencoded")
    if request.network == "packet" and dedicated:
        raise UsageError(
            "--network packet: ps_async and dedicated servers are simulated on the fluid network only; leave --network "
            "out, or project ps_sync with --servers ideal"
        )
    if request.network == "packet":
        check_packet(
            request.cluster, request.algorithms, faults=request.scenario is not None, fold_off=not request.folding
        )
    require_floats(request.job.model, request.codecs)


def check_packet(cluster: Cluster, algorithms: Mapping[Collective, str] | None = None, **given: bool) -> None:
    """Raise UsageError for what `--network packet` does not take: options, if `given`, or another transport than gloo.

    An option's name stands for its flag: `fold_off` for `--fold off`.
    """
    fixed = any(name not in ("auto", GLOO) for name in (algorithms or {}).values())
    options = {"algorithm": fixed, **given}
    refused = [f"--{option.replace('_', ' ')}" for option, is_given in options.items() if is_given]
    if refused:
        raise UsageError(f"{', '.join(refused)}: not with --network packet; leave out one or the other")
    if not supports_packet_model(cluster.transport):
        raise UsageError(
            f"--network packet needs a gloo transport, and not {cluster.transport.name}: add --transport gloo-tcp, or "
            "use --network fluid"
        )


def check_gpus(request: ProjectRequest) -> None:
    """Raise UsageError or CapacityError for a number of GPUs that the cluster does not have."""
    for n_gpus in request.gpus:
        if n_gpus < 1:
            raise UsageError(f"--gpus {n_gpus}: a job needs at least 1 GPU")
        request.cluster.require(n_gpus)
        if request.servers is not None and request.servers.count:
            request.servers.first_gpus(request.cluster, n_gpus)
