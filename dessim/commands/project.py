"""Projection: what a step would take with another strategy, on another cluster, at another scale.

Sizes come from formulas, communication from simulation, compute from a roofline of the cluster's GPU - or, where the
trace was recorded on that very device, from its measured times scaled by the ratio of rooflines. Every row says which,
and what memory a GPU needs; a job that does not fit is a `Misfit`, unless its rows may spill to the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dessim.cluster import Cluster
from dessim.commands.support.dedicated_servers import Servers, step_with_servers
from dessim.commands.support.dedicated_servers import check as check_servers
from dessim.commands.support.projection import Misfit, Projection
from dessim.commands.support.step import durations_of, step_of, to_host
from dessim.errors import CapacityError, UsageError
from dessim.results.metrics import breakdown
from dessim.sim.engine import simulate
from dessim.sim.faults.fault_file import Scenario
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.units import format_bandwidth, format_size
from dessim.workload.codecs import CodecConfig
from dessim.workload.coded_plan import coded
from dessim.workload.memory import memory_of, require, require_servers, served_memory, spill_of
from dessim.workload.plan import Plan, Traffic
from dessim.workload.scale import Job
from dessim.workload.server_roles import moved
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies import spec_of


def project(
    job: Job,
    cluster: Cluster,
    strategies: Sequence[str],
    gpus: Sequence[int],
    batch_per_worker: int | None = None,
    algorithms: Mapping[Collective, str] | None = None,
    error_bar: float | None = None,
    folding: bool = True,
    progress: Progress | None = None,
    each: Callable[[Projection | Misfit], None] | None = None,
    spill: bool = False,
    servers: Servers | None = None,
    pipeline: bool = True,
    scenario: Scenario | None = None,
    codes: CodecConfig | None = None,
) -> list[Projection | Misfit]:
    """Rows for every strategy at every scale, in the order given. The batch a worker stays fixed (weak scaling).

    `error_bar` is the relative error measured where the job was recorded, if it was. `each` is given every row as soon
    as it is ready: those before `progress` ended the run. With `spill` rows that do not fit a GPU live in its host's
    memory. With `pipeline` the next step's ids are sent while a step runs, as the trainer does. `servers` are hosts for
    the tables of `ps_*` strategies; without them `ps_sync` has a server on each worker. `scenario` says what
    goes wrong, at times from the start of the step. `codes` says what values travel as.
    Raises UsageError, OutOfTime, and CapacityError where the cluster has too few GPUs or nothing fits theirs.
    """
    if not strategies or not gpus:
        raise UsageError("name at least one strategy and one number of GPUs")
    check_servers(strategies, servers)
    if servers is not None and scenario is not None:
        raise UsageError("--faults and --servers: hosts that serve have no faults yet; leave one of the two out")
    plans = [plan_of(name, job.model) for name in strategies]
    if codes:
        if servers is not None or any(spec_of(name).dedicated_servers for name in strategies):
            raise UsageError(f"--codec {codes}: ps_async, and servers on hosts of their own, move values as they are")
        plans = [coded(plan, job.model, codes) for plan in plans]
    if pipeline:
        # Servers on hosts of their own have a time line of their own, in which a worker asks when it needs a row.
        plans = [plan if servers and spec_of(plan.strategy).has_servers else plan.pipelined() for plan in plans]
    for n in gpus:
        if n < 1:
            raise UsageError(f"--gpus {n}: a job needs at least 1 GPU")
        cluster.require(n)
        if servers is not None:
            servers.seats(cluster, n)
    routed = RouteCache(cluster, folding)
    host_bandwidth = to_host(cluster, max(gpus), "--spill") if spill else None
    rows: list[Projection | Misfit] = []
    progress = progress or Progress()
    cases = [(n, plan) for n in gpus for plan in plans]
    for done, (n, plan) in enumerate(cases):
        part = progress.within(done, len(cases), "projections")
        rows.append(
            _row(job, routed, plan, n, batch_per_worker, algorithms, error_bar, part, host_bandwidth, servers, scenario)
        )
        if each is not None:
            each(rows[-1])
    misfits = [row for row in rows if isinstance(row, Misfit)]
    if len(misfits) == len(rows):
        raise CapacityError(misfits[0].reason)
    return rows


def _row(
    job: Job,
    routed: RouteCache,
    plan: Plan,
    n: int,
    batch_per_worker: int | None,
    algorithms: Mapping[Collective, str] | None,
    error_bar: float | None,
    progress: Progress,
    host_bandwidth: float | None,
    servers: Servers | None,
    scenario: Scenario | None,
) -> Projection | Misfit:
    cluster = routed.cluster
    symbols = plan.symbols(job.symbols(n, batch_per_worker))
    if servers is not None and spec_of(plan.strategy).has_servers:
        return _served_row(job, routed, plan, symbols, error_bar, progress, servers)
    memory, batch = memory_of(plan, symbols), round(symbols["B"])
    try:
        for gpu, _ in cluster.devices(range(n)):
            require(memory, gpu.memory, gpu.name, _what(job, plan, n), symbols, spill=host_bandwidth is not None)
    except CapacityError as error:
        return Misfit(n, plan.strategy, batch, memory, str(error))
    spill = spill_of(plan, job.model, memory, symbols, gpu.memory, host_bandwidth) if host_bandwidth else None
    workload, compute_from = step_of(job, cluster, plan, symbols, spill)
    faults = None
    if scenario is not None:
        workload, faults = scenario.slowed(workload), scenario.faults
    record = simulate(cluster, workload, algorithms, routed=routed, progress=progress, faults=faults)
    return Projection(
        gpus=n,
        strategy=plan.strategy,
        batch=batch,
        breakdown=breakdown(record),
        bytes_per_worker=plan.sent_bytes(symbols),
        bytes_by_traffic={str(t): plan.sent_bytes(symbols, t) for t in Traffic if t is not Traffic.NONE},
        provenance={
            **_provenance(
                job, cluster, n, compute_from, "; ids of the next step prefetched" if plan.is_pipelined else ""
            ),
            **({"spill": _spill_from(job, host_bandwidth)} if spill and host_bandwidth else {}),
            **({"faults": str(scenario)} if scenario is not None else {}),
        },
        caveat=plan.caveat,
        error_bar=error_bar,
        memory=memory,
        spill=spill,
        record=record,
    )


def _served_row(
    job: Job,
    routed: RouteCache,
    plan: Plan,
    symbols: Mapping[str, float],
    error_bar: float | None,
    progress: Progress,
    servers: Servers,
) -> Projection | Misfit:
    """A row of workers and of servers on hosts of their own; nothing spills, since no rows are on GPUs."""
    cluster, n, batch = routed.cluster, int(symbols["N"]), round(symbols["B"])
    gpu, device, what = cluster.device(range(n), "--servers"), servers.device, _what(job, plan, n)
    memory, of_server = served_memory(plan, symbols, servers.count)
    try:
        require(memory, gpu.memory, gpu.name, what, symbols)
        require_servers(of_server, device.memory, device.name, what, servers.count)
    except CapacityError as error:
        return Misfit(n, plan.strategy, batch, memory, str(error))
    durations, compute_from = durations_of(job, gpu, plan, symbols, None)
    step = step_with_servers(cluster, plan, symbols, durations, servers, of_server, routed.folding, progress)
    share = f", of which each of {servers.threads} threads has its share" if servers.threads > 1 else ""
    return Projection(
        gpus=n,
        strategy=plan.strategy,
        batch=batch,
        breakdown=step.breakdown,
        bytes_per_worker=moved(plan, symbols, servers.count),
        bytes_by_traffic={str(t): moved(plan, symbols, servers.count, t) for t in Traffic if t is not Traffic.NONE},
        provenance={
            **_provenance(job, cluster, n, compute_from),
            "servers": f"assumed: {servers.count} hosts beside the workers', roofline of {device.name}{share}",
        },
        caveat="",
        error_bar=error_bar,
        memory=memory,
        spill=None,
        record=step.record,
        served=step,
    )


def _what(job: Job, plan: Plan, n: int) -> str:
    return f"{plan.strategy} of {job.model.name} on {n:,} GPU{'s' if n > 1 else ''}"


def _provenance(job: Job, cluster: Cluster, n: int, compute_from: str, meanwhile: str = "") -> dict[str, str]:
    has = ", ".join(f"{gpu.name} has {format_size(gpu.memory)}" for gpu, _ in cluster.devices(range(n)))
    return {
        "compute": compute_from,
        "communication": f"simulated on {cluster.name}; transport {cluster.transport.name}{meanwhile}",
        "sizes": job.sizes_from,
        "memory": f"formula: rows, optimizer, index, what a step makes; {has}",
    }


def _spill_from(job: Job, host_bandwidth: float) -> str:
    return (
        f"assumed: the hottest rows stay on the GPU, ids by Zipf's law with skew {job.model.input.skew:g}; "
        f"{format_bandwidth(host_bandwidth)} each way to the host's memory"
    )
