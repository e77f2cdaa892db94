"""Compute, messages and memory of each rank under a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dessim.arrays import Floats, significant
from dessim.cluster import Gpu
from dessim.commands.support.guard import worker_bytes
from dessim.commands.support.step import durations_of
from dessim.workload.memory import memory_by_owner
from dessim.workload.owners import by_rank, owners_of
from dessim.workload.plan import Plan
from dessim.workload.scale import Job

_DIGITS = 12
"""Digits of the numbers in results. The last bits of sums differ between processors."""


@dataclass(frozen=True, slots=True)
class ByRank:
    """Seconds of each rank's kernels in a step, bytes that it sends and receives, and bytes of its memory [ranks].

    `capacity_bytes`: the memory of a GPU.
    """

    compute_s: Floats
    sent_bytes: Floats
    received_bytes: Floats
    memory_bytes: Floats
    capacity_bytes: float

    def _loads(self) -> dict[str, Floats]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "capacity_bytes"}

    def extremes(self) -> dict[str, list[float]]:
        """The smallest and the largest value of each load, over all ranks."""
        return {name: [float(load.min()), float(load.max())] for name, load in self._loads().items()}

    def to_json(self) -> dict[str, Any]:
        loads = {name: [significant(value, _DIGITS) for value in load.tolist()] for name, load in self._loads().items()}
        return {**loads, "capacity_bytes": self.capacity_bytes}


def load_by_rank(job: Job, gpu: Gpu, plan: Plan, symbols: Mapping[str, float]) -> ByRank:
    """The loads of a plan on GPUs of one type. `symbols`: those of the job."""
    plan = plan.pipelined()
    symbols = plan.symbols(symbols)
    owners = owners_of(plan, job.model, symbols)
    compute = [sum(durations_of(job, gpu, plan, symbols, None, owner)[0].values()) for owner in owners]
    memory = [memory.total for memory in memory_by_owner(plan, symbols, owners)]
    sent, received = worker_bytes(plan, symbols, owners)
    return ByRank(by_rank(owners, compute), sent, received, by_rank(owners, memory), gpu.memory)
