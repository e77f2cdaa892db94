"""Two lower bounds of a step that follow from the plan and the topology alone, and the refusal of any faster step.

The busiest node must send and receive the bytes that its ranks exchange with other nodes, whatever the algorithms and
routes. The busiest GPU must do its work, at its peak rates and without launches. The simulation uses neither bound: it
routes messages and runs ops. A simulated step below a bound is a bug in dessim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster import Cluster
from dessim.cluster.tree_routes import sums_in_fabric
from dessim.commands.support.step import is_measured
from dessim.errors import PhysicsError
from dessim.trace.schema import Collective, Kind, sent_factor
from dessim.units import format_time
from dessim.workload.owners import Owner, by_rank, sizes_of
from dessim.workload.plan import OwnerRole, Plan, PlannedOp
from dessim.workload.scale import Job

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class LeastStep:
    """Lower bounds of a step in seconds: the wire time of the busiest node's NICs, and the work of the busiest GPU."""

    nic_s: float
    gpu_s: float

    def require(self, step_s: float, job: str) -> None:
        """Raise PhysicsError if a simulated step is shorter than a bound. `job` names it."""
        if step_s < max(self.nic_s, self.gpu_s) * (1 - _ROUNDING):
            raise PhysicsError(
                f"internal error: {job} was simulated to take {format_time(step_s)} a step, but the busiest NICs need "
                f"{format_time(self.nic_s)} for their bytes and the busiest GPU {format_time(self.gpu_s)} for its work"
            )


def least_step(
    job: Job, cluster: Cluster, plan: Plan, symbols: Mapping[str, float], owners: Sequence[Owner]
) -> LeastStep:
    """The bounds of a step of `plan` on the first N GPUs of `cluster`, whose workers own the shares of `owners`."""
    return LeastStep(_nic_seconds(cluster, plan, symbols, owners), _gpu_seconds(job, cluster, plan, symbols, owners))


def worker_bytes(plan: Plan, symbols: Mapping[str, float], owners: Sequence[Owner]) -> tuple[Floats, Floats]:
    """The bytes that each worker sends and receives in a step [workers], by algorithms that send the least."""
    n = int(symbols["N"])
    sent = np.zeros(n)
    received = np.zeros(n)
    for op in plan.collectives:
        assert op.collective is not None
        size = by_rank(owners, sizes_of(op, symbols, owners))
        out = sent_factor(op.collective, op.members(symbols)) * size
        back = out
        if op.collective is Collective.ALL_TO_ALL:
            others = np.zeros(n)
            for group in _groups(op, symbols):
                others[group] = (size[group].sum() - size[group]) / len(size[group])
            out, back = (others, out) if op.role is OwnerRole.RECEIVES else (out, others)
        sent += out
        received += back
    return sent, received


def _nic_seconds(cluster: Cluster, plan: Plan, symbols: Mapping[str, float], owners: Sequence[Owner]) -> float:
    n = int(symbols["N"])
    node = cluster.node_of(np.arange(n))
    ranks = np.bincount(node)
    if len(ranks) == 1:
        return 0.0
    sent = np.zeros(len(ranks))
    received = np.zeros(len(ranks))
    summing = sums_in_fabric(cluster)
    for op in plan.collectives:
        size = by_rank(owners, sizes_of(op, symbols, owners))
        for group in _groups(op, symbols):
            nodes, own, of_group = np.unique(node[group], return_inverse=True, return_counts=True)
            out, back = _across(op, size[group], own, of_group, summing)
            sent[nodes] += out
            received[nodes] += back
    nics = np.bincount(cluster.wiring.node_of_nic(), cluster.wiring.nic_capacity())[: len(ranks)]
    return float((np.maximum(sent, received) / nics).max())


def _groups(op: PlannedOp, symbols: Mapping[str, float]) -> list[slice]:
    """The groups of workers in which a collective runs."""
    n = int(symbols["N"])
    groups = dict(op.participants.group(rank, n, int(symbols.get("L", n))) for rank in range(n))
    return [slice(group.start, group.stop, group.step) for group in groups.values()]


def _across(op: PlannedOp, size: Floats, node: Ints, ranks: Ints, summing: bool) -> tuple[Floats, Floats]:
    """The least bytes that each node must send to other nodes for a collective, and receive from them."""
    n = float(ranks.sum())
    inside = ranks / n
    outside = 1 - ranks / n
    whole = float(size[0])
    match op.collective:
        case Collective.ALL_TO_ALL:
            own = np.bincount(node, size)
            one_way = own * outside
            other_way = (size.sum() - own) * inside
            return (other_way, one_way) if op.role is OwnerRole.RECEIVES else (one_way, other_way)
        case Collective.ALL_REDUCE:
            # With switches that sum, a node sends its own sum once and receives the total once.
            least = np.full(len(ranks), whole if summing else 2 * whole * (1 - 1 / len(ranks)))
            return least, least
        case Collective.REDUCE_SCATTER:
            return whole * outside, whole * inside
        case Collective.ALL_GATHER:
            return whole * inside, whole * outside
    return np.zeros(len(ranks)), np.zeros(len(ranks))


def _gpu_seconds(
    job: Job, cluster: Cluster, plan: Plan, symbols: Mapping[str, float], owners: Sequence[Owner]
) -> float:
    ops = [op for op in plan.ops if op.kind is Kind.COMPUTE]
    longest = 0.0
    for gpu, on_gpu in cluster.devices(range(int(symbols["N"]))):
        # Formulas state the bytes that ops touch. Caches serve part of them, which only measured times include.
        measured = is_measured(job, gpu, plan)
        for owner in owners:
            if np.isin(on_gpu, np.asarray(owner.ranks, dtype=np.int64)).any():
                values = {op.name: owner.symbols(symbols, op.role) for op in ops}
                flops = sum(op.flops.evaluate(values[op.name]) for op in ops)
                traffic = 0.0 if measured else sum(op.mem.evaluate(values[op.name]) for op in ops)
                longest = max(longest, flops / gpu.peak(plan.precision), traffic / gpu.memory_bandwidth)
    return longest
