"""Why no plan of a job fits the memory of its GPUs, in one line that says what would help."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dessim.cluster import Gpu
from dessim.plan.candidates import PlanProblem
from dessim.plan.choose import allowed, least_memory, mean_memory
from dessim.plan.loads import Choice, Loads
from dessim.units import format_size
from dessim.workload.composed import SPILT
from dessim.workload.plan_file import table_name


def too_large(problem: PlanProblem, loads: Loads, gpu: Gpu, spill: str = "") -> str:
    """Why no plan fits: the table that fits nowhere, or the memory of all tables together.

    `spill`: how tables could be spilt, where they are not.
    """
    model = problem.model
    n = problem.gpus
    what = f"{model.name} on {n:,} GPUs"
    room = f"{gpu.name} has {format_size(max(loads.room, 0.0))} left for tables"
    options = allowed(loads, problem.strategies, problem.pinned)
    for table, of_table in enumerate(options):
        if not of_table:
            pinned = problem.pinned.get(table)
            may_have = [
                choice for choice in loads.by_choice if pinned is not None or choice.family in problem.strategies
            ]
            tried = [c for c in may_have if replace(c, cache=0) == pinned] if pinned is not None else may_have
            needed = [
                least_memory(loads, choice, load)
                for choice in tried
                if (load := loads.by_choice[choice][table]) is not None
            ]
            if not needed:
                return f"{what}: {table_name(model, table)} {_impossible(problem, pinned)}"
            by = f" pinned to {pinned.family}" if pinned is not None else ""
            excess = format_size(min(needed) - max(loads.room, 0.0))
            advice = _advice(pinned is not None, spill)
            return f"{what}: {table_name(model, table)}{by} fits nowhere, by {excess}: {room}; {advice}"
    least = [
        min(
            mean_memory(loads, choice, load)
            for choice in of_table
            if (load := loads.by_choice[choice][table]) is not None
        )
        for table, of_table in enumerate(options)
    ]
    largest = int(np.argmax(least))
    even = " even with rows in the hosts' memory" if SPILT in problem.strategies else ""
    even += f" ({format_size(loads.host_room)} in all)" if math.isfinite(loads.host_room) else ""
    return (
        f"{what}: the tables need {format_size(sum(least))} a GPU{even}, the largest, {table_name(model, largest)}, "
        f"{format_size(least[largest])}; {room}; {_advice(bool(problem.pinned), spill)}"
    )


def spill_advice(problem: PlanProblem) -> str:
    """The change that would let tables be spilt."""
    if SPILT not in problem.strategies:
        return f"leave {SPILT} out of --without"
    cluster = problem.cluster
    return f"state the bandwidth to the host's memory in {cluster.path} (node.pcie, or host_bandwidth of its gpu)"


def _impossible(problem: PlanProblem, pinned: Choice | None) -> str:
    """Why a table can have no choice at all: the one that it is pinned to, or those that are left."""
    if pinned is None:
        return f"can have none of {', '.join(problem.strategies)}"
    return f"cannot be {pinned.family}{f' in {pinned.parts} parts' if pinned.parts > 1 else ''}"


def _advice(is_pinned: bool, spill: str) -> str:
    ways = ["more GPUs", "rows of fewer bytes (--precision rows=fp16)", *(["fewer pinned tables"] if is_pinned else [])]
    of_spill = f"; or {spill}, so that rows may be in the host's memory" if spill else ""
    return f"use {', '.join(ways[:-1])}, or {ways[-1]}{of_spill}"
