"""Projection: what a step would take with another strategy, on another cluster, at another scale.

Sizes come from formulas, communication from simulation, compute from a roofline of the cluster's GPU - or, where the
trace was recorded on that very device, from its measured times scaled by the ratio of rooflines. Every row says which,
and what memory a GPU needs; a job that does not fit is a `Misfit`, unless its rows may spill to the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dessim.cluster import Cluster, Gpu
from dessim.errors import CapacityError, UsageError
from dessim.results.metrics import Breakdown, breakdown
from dessim.sim.collective import Routed
from dessim.sim.device import roofline
from dessim.sim.engine import simulate
from dessim.sim.fault_file import Scenario
from dessim.sim.recorder import Record
from dessim.sim.watch import Watch
from dessim.trace.schema import Collective, Kind
from dessim.units import format_bandwidth, format_size
from dessim.verbs.served import STRATEGIES as SERVED
from dessim.verbs.served import ServedStep, Servers, step_with_servers
from dessim.verbs.served import check as check_servers
from dessim.workload import formula
from dessim.workload.dag import RankClass, Workload
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.memory import Memory, Spill, memory_of, require, require_servers, served_memory, spill_of
from dessim.workload.plan import Plan, PlannedOp, Traffic
from dessim.workload.scale import Job
from dessim.workload.served import moved
from dessim.workload.strategies import plan as plan_of


@dataclass(frozen=True, slots=True)
class Projection:
    """One row: a strategy at a scale. `provenance` says where compute, communication, sizes and memory come from.

    `memory` is what a GPU needs, `spill` what of it is in the host's memory, if anything is; `served` are parameter
    servers on hosts of their own.
    """

    gpus: int
    strategy: str
    batch: int
    breakdown: Breakdown
    bytes_per_worker: float
    bytes_by_traffic: Mapping[str, float]
    provenance: Mapping[str, str]
    caveat: str
    error_bar: float | None
    memory: Memory
    spill: Spill | None
    record: Record
    served: ServedStep | None = None

    @property
    def samples_per_s(self) -> float:
        return self.batch / self.breakdown.step_time_s

    def to_json(self) -> dict[str, Any]:
        """A row of `projection`: units in the keys, breakdown beside the totals."""
        parts = self.breakdown.to_json()
        return {
            "gpus": self.gpus,
            "strategy": self.strategy,
            "batch": self.batch,
            "step_time_s": parts.pop("step_time_s"),
            "samples_per_s": self.samples_per_s,
            "bytes_per_worker": self.bytes_per_worker,
            "bytes_by_traffic": dict(self.bytes_by_traffic),
            **parts,
            "error_bar": self.error_bar,
            "memory_bytes": self.memory.total,
            "memory": self.memory.to_json(),
            "spill": self.spill.to_json() if self.spill else None,
            "servers": self.served.to_json() if self.served else None,
            "does_not_fit": None,
            "provenance": dict(self.provenance),
            "caveat": self.caveat,
        }


@dataclass(frozen=True, slots=True)
class Misfit:
    """A row without times: what a GPU would need is more than it has. `reason` says what to change."""

    gpus: int
    strategy: str
    batch: int
    memory: Memory
    reason: str

    def to_json(self) -> dict[str, Any]:
        """A row of `projection` with nothing but memory."""
        return {
            "gpus": self.gpus,
            "strategy": self.strategy,
            "batch": self.batch,
            "step_time_s": None,
            "samples_per_s": None,
            "memory_bytes": self.memory.total,
            "memory": self.memory.to_json(),
            "does_not_fit": self.reason,
        }


def project(
    job: Job,
    cluster: Cluster,
    strategies: Sequence[str],
    gpus: Sequence[int],
    batch_per_worker: int | None = None,
    algorithms: Mapping[Collective, str] | None = None,
    error_bar: float | None = None,
    folding: bool = True,
    watch: Watch | None = None,
    each: Callable[[Projection | Misfit], None] | None = None,
    spill: bool = False,
    servers: Servers | None = None,
    pipeline: bool = True,
    scenario: Scenario | None = None,
) -> list[Projection | Misfit]:
    """Rows for every strategy at every scale, in the order given. The batch a worker stays fixed (weak scaling).

    `error_bar` is the relative error measured where the job was recorded, if it was. `each` is given every row as soon
    as it is ready: those before `watch` ended the run. With `spill` rows that do not fit a GPU live in its host's
    memory. With `pipeline` the next step's ids are sent while a step runs, as the trainer does. `servers` are hosts for
    the tables of `ps_*` strategies; without them `ps_sync` has a server on each worker. `scenario` says what
    goes wrong, at times from the start of the step.
    Raises UsageError, OutOfTime, and CapacityError where the cluster has too few GPUs or nothing fits theirs.
    """
    if not strategies or not gpus:
        raise UsageError("name at least one strategy and one number of GPUs")
    check_servers(strategies, servers)
    if servers is not None and scenario is not None:
        raise UsageError("--faults and --servers: hosts that serve have no faults yet; leave one of the two out")
    plans = [plan_of(name, job.model) for name in strategies]
    if pipeline:
        # Servers on hosts of their own have a time line of their own, in which a worker asks when it needs a row.
        plans = [plan if servers and plan.strategy in SERVED else plan.pipelined() for plan in plans]
    for n in gpus:
        if n < 1:
            raise UsageError(f"--gpus {n}: a job needs at least 1 GPU")
        cluster.require(n)
        if servers is not None:
            servers.seats(cluster, n)
    routed = Routed(cluster, folding)
    host_bandwidth = _host_bandwidth(cluster, max(gpus)) if spill else None
    rows: list[Projection | Misfit] = []
    watch = watch or Watch()
    cases = [(n, plan) for n in gpus for plan in plans]
    for done, (n, plan) in enumerate(cases):
        part = watch.within(done, len(cases), "projections")
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
    routed: Routed,
    plan: Plan,
    n: int,
    batch_per_worker: int | None,
    algorithms: Mapping[Collective, str] | None,
    error_bar: float | None,
    watch: Watch,
    host_bandwidth: float | None,
    servers: Servers | None,
    scenario: Scenario | None,
) -> Projection | Misfit:
    cluster = routed.cluster
    symbols = job.symbols(n, batch_per_worker)
    if servers is not None and plan.strategy in SERVED:
        return _served_row(job, routed, plan, symbols, error_bar, watch, servers)
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
    record = simulate(cluster, workload, algorithms, routed=routed, watch=watch, faults=faults)
    return Projection(
        gpus=n,
        strategy=plan.strategy,
        batch=batch,
        breakdown=breakdown(record),
        bytes_per_worker=plan.sent_bytes(symbols),
        bytes_by_traffic={str(t): plan.sent_bytes(symbols, t) for t in Traffic if t is not Traffic.NONE},
        provenance={
            **_provenance(
                job, cluster, n, compute_from, "; the next step's ids meanwhile" if plan.is_pipelined else ""
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
    routed: Routed,
    plan: Plan,
    symbols: Mapping[str, float],
    error_bar: float | None,
    watch: Watch,
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
    durations, compute_from = _durations(job, gpu, plan, symbols, None)
    step = step_with_servers(cluster, plan, symbols, durations, servers, of_server, routed.folding, watch)
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


def _host_bandwidth(cluster: Cluster, n: int) -> float:
    """Payload bytes/s between a GPU and its host's memory, each way; of unlike servers the slowest."""
    own = cluster.device(range(n), "--spill").host_bandwidth
    slots = [node.pcie.capacity if node.pcie else 0.0 for node in cluster.nodes]
    found = own or min(slots)
    if not found:
        raise UsageError(
            f"--spill needs the way to the host's memory: {cluster.path} has no node.pcie; "
            'give its gpu a host_bandwidth, such as gpu = {part = "h100-sxm", host_bandwidth = "55 GB/s"}'
        )
    return found


def _spill_from(job: Job, host_bandwidth: float) -> str:
    return (
        f"assumed: the hottest rows stay on the GPU, ids by Zipf's law with skew {job.model.input.skew:g}; "
        f"{format_bandwidth(host_bandwidth)} each way to the host's memory"
    )


def step_of(
    job: Job, cluster: Cluster, plan: Plan, symbols: Mapping[str, float], spill: Spill | None = None
) -> tuple[Workload, str]:
    """A step of `plan` on the first GPUs of `cluster`, and where its compute times come from.

    Ranks on different GPUs are different classes.
    """
    devices = cluster.devices(range(int(symbols["N"])))
    found = [(ranks, *_durations(job, gpu, plan, symbols, spill)) for gpu, ranks in devices]
    each = [(ranks, workload_from_plan(plan, symbols, durations)) for ranks, durations, _ in found]
    source = "; ".join(dict.fromkeys(source for _, _, source in found))
    workload = each[0][1]
    if len(each) > 1:
        classes = (RankClass(tuple(ranks.tolist()), of.classes[0].tasks) for ranks, of in each)
        workload = replace(workload, classes=tuple(classes))
    return workload, source


def _durations(
    job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float], spill: Spill | None
) -> tuple[dict[str, float], str]:
    """Seconds of each compute op, and where they come from."""
    seconds, source = _on_gpu(job, gpu, plan, symbols)
    if spill is None:
        return seconds, source
    # One more roof: the link to the host works while the GPU's own memory does.
    launches = {op.name: op.kernels * gpu.launch_overhead for op in plan.ops}
    slow = {name: launches[name] + there for name, there in spill.seconds.items()}
    return {name: max(here, slow.get(name, 0.0)) for name, here in seconds.items()}, source


def _on_gpu(job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """The same with all rows in the GPU's memory."""
    ops = [op for op in plan.ops if op.kind is Kind.COMPUTE]
    bound = {op.name: _roofline(op, gpu, symbols) for op in ops}
    same_device = job.device == gpu.name and job.strategy == plan.strategy
    if not same_device or any(op.name not in job.measured_s for op in ops):
        return bound, f"assumed: roofline of {gpu.name}"
    scaled = {
        op.name: job.measured_s[op.name] * bound[op.name] / _roofline(op, gpu, job.measured_symbols) for op in ops
    }
    return scaled, f"measured on {job.device}, scaled by the ratio of its roofline"


def _roofline(op: PlannedOp, gpu: Gpu, symbols: Mapping[str, float]) -> float:
    return roofline(gpu, formula.evaluate(op.flops, symbols), formula.evaluate(op.mem, symbols), float(op.kernels))
