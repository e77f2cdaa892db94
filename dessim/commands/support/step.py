"""One step of a plan on a cluster's GPUs, and how long its compute takes: measured and scaled, or a roofline."""

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
    """A step of `plan` on the first GPUs of `cluster`, and where its compute times come from.

    Ranks on different GPUs are different classes.
    """
    devices = cluster.devices(range(int(symbols["N"])))
    found = [(ranks, *durations_of(job, gpu, plan, symbols, spill)) for gpu, ranks in devices]
    copies = _copies(cluster, plan, symbols)
    each = [(ranks, workload_from_plan(plan, symbols, durations | copies)) for ranks, durations, _ in found]
    source = "; ".join(dict.fromkeys(source for _, _, source in found))
    if copies:
        link = format_bandwidth(to_host(cluster, int(symbols["N"]), plan.strategy))
        source += f"; copies: {link} each way to the host's memory"
    workload = each[0][1]
    if len(each) > 1:
        classes = (RankClass(tuple(ranks.tolist()), of.classes[0].tasks) for ranks, of in each)
        workload = replace(workload, classes=tuple(classes))
    return workload, source


def durations_of(
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


def to_host(cluster: Cluster, n: int, asks: str) -> float:
    """Payload bytes/s between a GPU and its host's memory, each way; of unlike servers the slowest.

    Raises UsageError where the cluster does not say, with what asks for it.
    """
    own = cluster.device(range(n), asks).host_bandwidth
    slots = [node.pcie.capacity if node.pcie else 0.0 for node in cluster.nodes]
    found = own or min(slots)
    if not found:
        raise UsageError(
            f"{asks} needs the way to the host's memory: {cluster.path} has no node.pcie; "
            'give its gpu a host_bandwidth, such as gpu = {part = "h100-sxm", host_bandwidth = "55 GB/s"}'
        )
    return found


def _copies(cluster: Cluster, plan: Plan, symbols: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each copy between a GPU and its host."""
    if not plan.copies:
        return {}
    bandwidth = to_host(cluster, int(symbols["N"]), plan.strategy)
    return {op.name: op.size.evaluate(symbols) / bandwidth for op in plan.copies}


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
    return roofline(gpu, op.flops.evaluate(symbols), op.mem.evaluate(symbols), float(op.kernels))
