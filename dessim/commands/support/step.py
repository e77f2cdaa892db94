"""One step of a plan on a cluster's GPUs, with the time of each compute op.

A compute time is either that of the GPU's kernels (dessim.sim.core.kernel_times; a roofline where the part does not
describe them), or the time that a trace measured on such a GPU, scaled by the ratio of two such times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dessim.arrays import Floats
from dessim.cluster import Cluster, Gpu
from dessim.compute import Precision
from dessim.errors import CapacityError, UsageError
from dessim.sim.core.kernel_times import Product, Work, launched, op_seconds
from dessim.trace.schema import Kind
from dessim.units import format_bandwidth, format_size
from dessim.workload.dag import Workload
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.memory import Spill
from dessim.workload.owners import MEAN, Owner
from dessim.workload.plan import Plan, PlannedOp
from dessim.workload.scale import Job


def step_of(
    job: Job,
    cluster: Cluster,
    plan: Plan,
    symbols: Mapping[str, float],
    owners: Sequence[Owner],
    *,
    spill: Spill | None = None,
    steps: int = 1,
) -> tuple[Workload, str]:
    """Return `steps` steps of `plan` on the first N GPUs of `cluster`, and the source of their compute times.

    Ranks are of different classes if they are on GPUs of different types, or own different shares (`owners`). Raises
    UsageError where the plan copies rows to the host and the cluster does not state that bandwidth.
    """
    n_gpus = int(symbols["N"])
    bandwidth = to_host(cluster, n_gpus, plan.strategy) if plan.copies else 0.0
    classes: list[Owner] = []
    durations: list[dict[str, float]] = []
    sources: list[str] = []
    for gpu, on_gpu in cluster.devices(range(n_gpus)):
        for owner in owners:
            ranks = np.intersect1d(on_gpu, np.asarray(owner.ranks, dtype=np.int64))
            if not len(ranks):
                continue
            seconds, source = durations_of(job, gpu, plan, symbols, spill, owner)
            classes.append(replace(owner, ranks=tuple(ranks.tolist())))
            copies = {op.name: op.size.evaluate(owner.symbols(symbols, op.role)) / bandwidth for op in plan.copies}
            durations.append(seconds | copies)
            if source not in sources:
                sources.append(source)
    source = "; ".join(sources)
    if plan.copies:
        source += f"; copies: {format_bandwidth(bandwidth)} in each direction to the host's memory"
    return workload_from_plan(plan, symbols, durations, steps, classes), source


def shared_cores(cluster: Cluster, gpus: Sequence[Gpu]) -> int | None:
    """The cores of one machine on which all ranks compute; None if each has its own device.

    Raises UsageError where the devices disagree.
    """
    counts = list(dict.fromkeys(gpu.shared_cores for gpu in gpus))
    if len(counts) > 1:
        raise UsageError(
            f"{cluster.path}: all ranks share the cores of one machine; give every gpu the same shared_cores"
        )
    return counts[0]


def is_measured(job: Job, gpu: Gpu, plan: Plan) -> bool:
    """Whether a trace of the job measured the compute ops of `plan` on such a GPU."""
    same = job.device == gpu.name and job.strategy == plan.strategy
    return same and all(op.name in job.measured_s for op in plan.ops if op.kind is Kind.COMPUTE)


def durations_of(
    job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float], spill: Spill | None, owner: Owner = MEAN
) -> tuple[dict[str, float], str]:
    """Return the seconds of each compute op by name on a worker that owns the shares of `owner`, and their source."""
    seconds, source = _on_gpu(job, gpu, plan, symbols, owner)
    if spill is None:
        return seconds, source
    # Reads from the host overlap with the GPU's own memory, so an op takes as long as the slower of the two.
    from_host = {
        op.name: launched(gpu, op.kernels, spill.seconds[op.name], plan.graphs)
        for op in plan.ops
        if op.name in spill.seconds
    }
    return {name: max(on_gpu, from_host.get(name, 0.0)) for name, on_gpu in seconds.items()}, source


def to_host(cluster: Cluster, n_gpus: int, purpose: str) -> float:
    """Return the payload bytes/s between a GPU and its host's memory in each direction; of all nodes the slowest.

    `purpose` names what needs this bandwidth, for the error message. Raises UsageError where the cluster does not state
    it.
    """
    stated = cluster.device(range(n_gpus), purpose).host_bandwidth
    pcie = [node.pcie.capacity if node.pcie else 0.0 for node in cluster.nodes]
    bandwidth = stated or min(pcie)
    if not bandwidth:
        raise UsageError(
            f"{purpose} needs the bandwidth to the host's memory: {cluster.path} has no node.pcie; "
            'give its gpu a host_bandwidth, such as gpu = {part = "h100-sxm", host_bandwidth = "55 GB/s"}'
        )
    return bandwidth


def require_hosts(cluster: Cluster, host_bytes: Floats, what: str) -> None:
    """Raise CapacityError where the ranks of a server together have more in the memory of its CPUs than it has.

    `host_bytes` [ranks]; servers that do not state their memory are not checked. `what` names the job.
    """
    if not host_bytes.any():
        return
    ranks = np.arange(len(host_bytes))
    nodes = cluster.node_of(ranks)
    of_nodes = np.bincount(nodes, host_bytes)
    for kind, rows in cluster.wiring.by_kind(ranks):
        has = kind.node.host_memory
        fullest = max(np.unique(nodes[rows]).tolist(), key=lambda node: float(of_nodes[node]))
        if has is not None and of_nodes[fullest] > has:
            raise CapacityError(
                f"{what} does not fit: spilt rows of the GPUs of server {fullest} need "
                f"{format_size(of_nodes[fullest])}, its host has {format_size(has)}; spill fewer tables, or use more "
                "servers"
            )


def _on_gpu(job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float], owner: Owner) -> tuple[dict[str, float], str]:
    """`durations_of` with all rows in the GPU's memory."""
    ops = [op for op in plan.ops if op.kind is Kind.COMPUTE]
    priced = {
        op.name: op_seconds(gpu, work_of(op, owner.symbols(symbols, op.role), plan.precision), plan.graphs)
        for op in ops
    }
    if not is_measured(job, gpu, plan):
        return priced, _source(gpu, plan)
    # Traces are recorded in float32, without graphs.
    scaled = {
        op.name: job.measured_s[op.name] * priced[op.name] / op_seconds(gpu, work_of(op, job.measured_symbols))
        for op in ops
    }
    return scaled, f"measured on {job.device}, scaled by the ratio of its roofline"


def _source(gpu: Gpu, plan: Plan) -> str:
    """The source of compute times that were not measured for the job itself."""
    if gpu.kernels is None:
        return f"assumed: roofline of {gpu.name}"
    kind = "assumed" if gpu.assumed else "measured"
    launch = "CUDA graphs" if plan.graphs else "eager launches"
    return f"{kind}: kernels of {gpu.name} in {plan.precision}, {launch}"


def work_of(op: PlannedOp, symbols: Mapping[str, float], precision: Precision = Precision.FP32) -> Work:
    """A compute op as a device sees it. `precision`: of its products of matrices."""
    products = (
        Product(*(size.evaluate(symbols) for size in (planned.m, planned.n, planned.k, planned.count)))
        for planned in op.products
    )
    return Work(
        flops=op.flops.evaluate(symbols),
        bytes=op.mem.evaluate(symbols),
        kernels=float(op.kernels),
        products=tuple(products),
        access=op.access,
        row_bytes=op.row_bytes.evaluate(symbols),
        precision=precision,
        value_bytes=symbols["sd"],
    )
