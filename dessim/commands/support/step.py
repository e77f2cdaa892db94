"""One step of a plan on a cluster's GPUs, with the time of each compute op.

A compute time is either the roofline of the GPU, or the time that a trace measured on such a GPU, scaled by the ratio
of rooflines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dessim.cluster import Cluster, Gpu
from dessim.errors import UsageError
from dessim.sim.core.device import roofline
from dessim.trace.schema import Kind
from dessim.units import format_bandwidth
from dessim.workload.dag import RankClass, Workload
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.memory import Spill
from dessim.workload.plan import Plan, PlannedOp
from dessim.workload.scale import Job


def step_of(
    job: Job, cluster: Cluster, plan: Plan, symbols: Mapping[str, float], spill: Spill | None = None
) -> tuple[Workload, str]:
    """Return a step of `plan` on the first N GPUs of `cluster`, and the source of its compute times.

    Ranks on GPUs of different types are different classes. Raises UsageError where the plan copies rows to the host and
    the cluster does not state that bandwidth.
    """
    n_gpus = int(symbols["N"])
    copies = _copies(cluster, plan, symbols)
    ranks_of_gpu = []
    workloads = []
    sources: list[str] = []
    for gpu, ranks in cluster.devices(range(n_gpus)):
        durations, source = durations_of(job, gpu, plan, symbols, spill)
        ranks_of_gpu.append(tuple(ranks.tolist()))
        workloads.append(workload_from_plan(plan, symbols, durations | copies))
        if source not in sources:
            sources.append(source)
    source = "; ".join(sources)
    if copies:
        link = format_bandwidth(to_host(cluster, n_gpus, plan.strategy))
        source += f"; copies: {link} in each direction to the host's memory"
    workload = workloads[0]
    if len(workloads) > 1:
        classes = [
            RankClass(ranks, of_gpu.classes[0].tasks) for ranks, of_gpu in zip(ranks_of_gpu, workloads, strict=True)
        ]
        workload = replace(workload, classes=tuple(classes))
    return workload, source


def durations_of(
    job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float], spill: Spill | None
) -> tuple[dict[str, float], str]:
    """Return the seconds of each compute op by name, and their source."""
    seconds, source = _on_gpu(job, gpu, plan, symbols)
    if spill is None:
        return seconds, source
    # Reads from the host overlap with the GPU's own memory, so an op takes as long as the slower of the two.
    from_host = {
        op.name: op.kernels * gpu.launch_overhead + spill.seconds[op.name]
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


def _copies(cluster: Cluster, plan: Plan, symbols: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each copy between a GPU and its host, by name."""
    if not plan.copies:
        return {}
    bandwidth = to_host(cluster, int(symbols["N"]), plan.strategy)
    return {op.name: op.size.evaluate(symbols) / bandwidth for op in plan.copies}


def _on_gpu(job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """`durations_of` with all rows in the GPU's memory."""
    ops = [op for op in plan.ops if op.kind is Kind.COMPUTE]
    rooflines = {op.name: _roofline(op, gpu, symbols) for op in ops}
    same_device_and_strategy = job.device == gpu.name and job.strategy == plan.strategy
    if not same_device_and_strategy or any(op.name not in job.measured_s for op in ops):
        return rooflines, f"assumed: roofline of {gpu.name}"
    scaled = {
        op.name: job.measured_s[op.name] * rooflines[op.name] / _roofline(op, gpu, job.measured_symbols) for op in ops
    }
    return scaled, f"measured on {job.device}, scaled by the ratio of its roofline"


def _roofline(op: PlannedOp, gpu: Gpu, symbols: Mapping[str, float]) -> float:
    """Seconds of a compute op by the roofline of `gpu`, launches included."""
    flops = op.flops.evaluate(symbols)
    mem_bytes = op.mem.evaluate(symbols)
    return roofline(gpu, flops, mem_bytes, float(op.kernels))
