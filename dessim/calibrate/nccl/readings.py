"""Readings of nccl-tests: how long a collective of a size took on a set-up, as one of many calls in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from dessim.collectives.nccl.setup import Setup
from dessim.trace.schema import Collective

_OPS = {
    "all_reduce": Collective.ALL_REDUCE,
    "allreduce": Collective.ALL_REDUCE,
    "all_gather": Collective.ALL_GATHER,
    "allgather": Collective.ALL_GATHER,
    "reduce_scatter": Collective.REDUCE_SCATTER,
    "reducescatter": Collective.REDUCE_SCATTER,
    "alltoall": Collective.ALL_TO_ALL,
    "all_to_all": Collective.ALL_TO_ALL,
    "broadcast": Collective.BROADCAST,
    "reduce": Collective.REDUCE,
    "sendrecv": Collective.SEND_RECV,
    "send_recv": Collective.SEND_RECV,
    "gather": Collective.GATHER,
    "scatter": Collective.SCATTER,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """`op` on S = `size` bytes took `microseconds` a call; `where` names the cluster and its settings."""

    op: Collective
    size: float
    microseconds: float
    setup: Setup
    where: str = ""


def op_named(name: str) -> Collective | None:
    """The op of a name that nccl-tests uses, such as `AllReduce` or `all_reduce_perf`; None if it is none of them."""
    return _OPS.get(name.strip().lower().removesuffix("_perf"))


def repeated(readings: Sequence[Reading]) -> list[Reading]:
    """One reading for each op, size, set-up and cluster: the median of those that were repeated."""
    groups: dict[tuple[object, ...], list[Reading]] = {}
    for reading in readings:
        groups.setdefault((reading.where, reading.op, reading.size, reading.setup), []).append(reading)
    return [replace(group[0], microseconds=median(r.microseconds for r in group)) for group in groups.values()]
