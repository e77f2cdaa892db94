"""Projection: what a step would take with another strategy, on another cluster, at another scale.

Sizes come from formulas, communication from simulation, and compute from a roofline of the cluster's GPU. Where the
trace was recorded on the same device with the same strategy, compute is the measured time scaled by the ratio of
rooflines instead. The `provenance` of each row says which. A job that does not fit the GPUs' memory becomes a `Misfit`,
unless its rows may spill to the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dessim.commands.support.dedicated_servers import Servers, step_with_servers
from dessim.commands.support.guard import least_step, worker_bytes
from dessim.commands.support.median_step import FEW_STEPS, MOST_RUNS, STEPS, median_step
from dessim.commands.support.project_request import ProjectRequest, check_gpus, check_request
from dessim.commands.support.projection import Misfit, Projection
from dessim.commands.support.spreads import spreads_on
from dessim.commands.support.step import (
    durations_of,
    is_measured,
    require_hosts,
    shared_cores,
    step_of,
    to_host,
)
from dessim.errors import CapacityError
from dessim.results.error_bar import error_bar
from dessim.results.metrics import breakdown
from dessim.sim.core.recorder import Record
from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.units import counted, format_bandwidth, format_size
from dessim.workload.coded_plan import coded
from dessim.workload.dag import Workload
from dessim.workload.memory import (
    memory_by_owner,
    require,
    require_servers,
    served_memory,
    spill_of,
    spill_of_groups,
)
from dessim.workload.owners import busiest_server, by_rank, owners_of
from dessim.workload.plan import Plan, Traffic
from dessim.workload.scale import Job
from dessim.workload.server_roles import moved, on_server
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies import spec_of

Row = Projection | Misfit


def run_projection(
    request: ProjectRequest,
    progress: Progress | None = None,
    on_row: Callable[[Row], None] | None = None,
    routed: RouteCache | None = None,
) -> list[Row]:
    """Return a row for every strategy at every scale: by number of GPUs, then in the order of the strategies.

    `on_row` receives each row as soon as it is ready, so rows survive when `progress` ends the run.
    `routed` keeps the routes of the request's cluster for further requests.
    Raises UsageError, OutOfTime, and CapacityError where the cluster has too few GPUs or no row fits their memory.
    """
    check_request(request)
    plans = plans_of(request)
    check_gpus(request)
    if routed is None:
        routed = RouteCache(request.cluster, request.folding)
    host_bandwidth = to_host(request.cluster, max(request.gpus), "--spill") if request.spill else None
    progress = progress or Progress()
    rows: list[Row] = []
    cases = [(n_gpus, plan) for n_gpus in request.gpus for plan in plans]
    for done, (n_gpus, plan) in enumerate(cases):
        case_progress = progress.within(done, len(cases), "projections")
        servers = _servers_of(request, plan, n_gpus)
        if servers is not None:
            row = _server_row(request, servers, routed, plan=plan, n_gpus=n_gpus, progress=case_progress)
        else:
            ahead = plan.pipelined() if request.pipeline else plan
            row = _row(request, routed, ahead, n_gpus=n_gpus, host_bandwidth=host_bandwidth, progress=case_progress)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    misfits = [row for row in rows if isinstance(row, Misfit)]
    if len(misfits) == len(rows):
        raise CapacityError(misfits[0].reason)
    return rows


def plans_of(request: ProjectRequest) -> list[Plan]:
    """The plan of each strategy, with codecs applied. Raises UsageError for one that cannot train the model."""
    of_strategies = [plan_of(name, request.job.model) for name in request.strategies]
    plans = [replace(plan, graphs=request.graphs) for plan in (*of_strategies, *request.composed)]
    if request.codecs:
        plans = [coded(plan, request.job.model, request.codecs) for plan in plans]
    return plans


def _servers_of(request: ProjectRequest, plan: Plan, n_gpus: int) -> Servers | None:
    """The dedicated servers of a row; None where the plan has none or `AUTO` finds no room for any.

    Under `AUTO`, a plan with options that are not modelled for dedicated servers keeps servers that answer at once: a
    lower bound.
    """
    spec = None if plan.groups else spec_of(plan.strategy)
    if request.servers is None or spec is None or not spec.has_servers:
        return None
    modelled = request.network == "fluid" and request.scenario is None and request.codecs is None and not plan.options
    if not request.servers.count and not modelled:
        return None
    servers = request.servers.for_workers(request.cluster, n_gpus)
    if servers is None and spec.dedicated_servers:
        raise CapacityError(
            f"{plan.strategy} on {n_gpus:,} GPUs: cluster {request.cluster.name} has no host left for servers; ask for "
            f"fewer GPUs, or raise node.count in {request.cluster.path}"
        )
    return servers


def _row(
    request: ProjectRequest,
    routed: RouteCache,
    plan: Plan,
    *,
    n_gpus: int,
    host_bandwidth: float | None,
    progress: Progress,
) -> Row:
    """Simulate a step on `n_gpus` GPUs. `host_bandwidth` [bytes/s] is None where rows must not spill."""
    job = request.job
    cluster = routed.cluster
    symbols = plan.symbols(job.symbols(n_gpus, request.batch_per_worker))
    owners = owners_of(plan, job.model, symbols)
    memories = memory_by_owner(plan, symbols, owners)
    memory = max(memories, key=lambda one: one.total)
    batch = round(symbols["B"])
    gpus = [gpu for gpu, _ in cluster.devices(range(n_gpus))]
    job_name = _job_name(job, plan, n_gpus)
    try:
        for gpu in gpus:
            require(memory, gpu.memory, gpu.name, what=job_name, symbols=symbols, spill=host_bandwidth is not None)
        require_hosts(cluster, by_rank(owners, [one.host for one in memories]), job_name)
    except CapacityError as error:
        return Misfit(n_gpus, plan.strategy, batch, memory, str(error))
    # `to_host` has required that all GPUs are identical where rows may spill.
    spill = None
    if host_bandwidth:
        capacity = gpus[-1].memory
        spill = spill_of(plan, job.model, memory, symbols=symbols, capacity=capacity, bandwidth=host_bandwidth)
    if any(group.is_spilt for group in plan.groups):
        spill = spill_of_groups(plan, symbols, memories)
    several = request.network == "packet"
    steps, runs = (FEW_STEPS, 1) if request.rough else (STEPS, MOST_RUNS)
    workload, compute_source = step_of(job, cluster, plan, symbols, owners, spill=spill, steps=steps if several else 1)
    scenario = request.scenario
    cores = shared_cores(cluster, gpus)

    def run(job_of_steps: Workload, progress: Progress) -> Record:
        return simulate(
            cluster,
            scenario.slowed(job_of_steps) if scenario is not None else job_of_steps,
            request.algorithms,
            routed=routed,
            progress=progress,
            faults=scenario.faults if scenario is not None else None,
            cores=cores,
            network=request.network,
        )

    if several:
        median = median_step(workload, max(gpu.variation for gpu in gpus), run, progress, runs)
        record = median.record
        split = median.breakdown()
    else:
        record = run(workload, progress)
        split = breakdown(record)
    measured = all(is_measured(job, gpu, plan) for gpu in gpus)
    least = least_step(job, cluster, plan, symbols, owners)
    least.require(split.step_time_s, job_name)
    return Projection(
        gpus=n_gpus,
        strategy=plan.strategy,
        batch=batch,
        breakdown=split,
        bytes_per_worker=plan.sent_bytes(symbols),
        bytes_by_traffic={str(t): plan.sent_bytes(symbols, t) for t in Traffic if t is not Traffic.NONE},
        provenance=_provenance(request, plan, n_gpus, compute_source, host_bandwidth if spill else None),
        caveat=plan.caveat,
        error_bar=request.error_bar,
        memory=memory,
        spill=spill,
        record=record,
        is_lower_bound=plan.is_lower_bound,
        bar=error_bar(split.critical_path, spreads_on(cluster, workload.groups, measured=measured)),
        least=least,
        busiest_bytes=float(worker_bytes(plan, symbols, owners)[0].max()),
    )


def _server_row(
    request: ProjectRequest,
    servers: Servers,
    routed: RouteCache,
    *,
    plan: Plan,
    n_gpus: int,
    progress: Progress,
) -> Row:
    """Simulate workers and dedicated servers. Nothing spills, because GPUs hold no rows."""
    job = request.job
    cluster = routed.cluster
    symbols = plan.symbols(job.symbols(n_gpus, request.batch_per_worker))
    batch = round(symbols["B"])
    gpu = cluster.device(range(n_gpus), "--servers")
    owners = busiest_server(plan, job.model, symbols, servers.count)
    worker_memory, _ = served_memory(plan, symbols, servers.count)
    _, server_memory = served_memory(plan, on_server(symbols, owners[0]), servers.count)
    job_name = _job_name(job, plan, n_gpus)
    try:
        require(worker_memory, gpu.memory, gpu.name, what=job_name, symbols=symbols)
        require_servers(server_memory, servers.device.memory, servers.device.name, job_name, servers.count)
    except CapacityError as error:
        return Misfit(n_gpus, plan.strategy, batch, worker_memory, str(error))
    durations, compute_source = durations_of(job, gpu, plan, symbols, None)
    step = step_with_servers(
        routed,
        plan,
        owners,
        symbols=symbols,
        durations=durations,
        servers=servers,
        memory=server_memory,
        progress=progress,
    )
    return Projection(
        gpus=n_gpus,
        strategy=plan.strategy,
        batch=batch,
        breakdown=step.breakdown,
        bytes_per_worker=moved(plan, symbols, servers.count),
        bytes_by_traffic={str(t): moved(plan, symbols, servers.count, t) for t in Traffic if t is not Traffic.NONE},
        provenance=_provenance(request, plan, n_gpus, compute_source) | {"servers": servers.source()},
        caveat="",
        error_bar=request.error_bar,
        memory=worker_memory,
        spill=None,
        record=step.record,
        served=step,
        bar=step.error_bar(cluster, is_measured(job, gpu, plan)),
    )


def _job_name(job: Job, plan: Plan, n_gpus: int) -> str:
    return f"{plan.strategy} of {job.model.name} on {counted(n_gpus, 'GPU')}"


def _provenance(
    request: ProjectRequest, plan: Plan, n_gpus: int, compute_source: str, spill_bandwidth: float | None = None
) -> dict[str, str]:
    """Where the numbers of a row come from. `spill_bandwidth` [bytes/s] is None where no rows spill."""
    job = request.job
    cluster = request.cluster
    capacities = ", ".join(f"{gpu.name} has {format_size(gpu.memory)}" for gpu, _ in cluster.devices(range(n_gpus)))
    sent_ahead = "; ids of the next step prefetched" if plan.is_pipelined else ""
    network = "" if request.network == "fluid" else f"; {request.network} network, median of several steps"
    provenance = {
        "compute": compute_source,
        "communication": f"simulated on {cluster.name}; transport {cluster.transport.name}{sent_ahead}{network}",
        "sizes": job.sizes_from + ("" if job.model.precision.is_default else f"; {job.model.precision}"),
        "memory": f"formula: rows, optimizer state, index, dense weights, activations; {capacities}",
    }
    if any(group.is_spilt for group in plan.groups):
        provenance["spill"] = (
            "assumed: GPUs cache the rows that were used last, misses follow from the frequencies of each table's ids; "
            f"{format_bandwidth(to_host(cluster, n_gpus, plan.strategy))} in each direction to the host's memory"
        )
    elif spill_bandwidth is not None:
        provenance["spill"] = (
            f"assumed: the hottest rows stay on the GPU, ids follow Zipf's law with skew {job.model.input.skew:g}; "
            f"{format_bandwidth(spill_bandwidth)} in each direction to the host's memory"
        )
    if request.scenario is not None:
        provenance["faults"] = str(request.scenario)
    return provenance
