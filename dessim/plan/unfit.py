"""Why no plan of a job fits the memory of its GPUs, in one line that says what would help."""

from __future__ import annotations

import numpy as np

from dessim.cluster import Gpu
from dessim.plan.candidates import Search
from dessim.plan.choose import allowed, least_memory, mean_memory
from dessim.plan.loads import Choice, Loads
from dessim.units import format_size
from dessim.workload.plan_file import table_name


def too_large(asked: Search, loads: Loads, gpu: Gpu) -> str:
    """Why no plan fits: the table that fits nowhere, or the memory of all tables together."""
    model, n = asked.model, asked.gpus
    what = f"{model.name} on {n:,} GPUs"
    room = f"{gpu.name} has {format_size(max(loads.room, 0.0))} left for tables"
    options = allowed(loads, asked.strategies, asked.pinned)
    for table, of_table in enumerate(options):
        if not of_table:
            pinned = asked.pinned.get(table)
            may_have = [choice for choice in loads.by_choice if choice.family in asked.strategies]
            tried = [pinned] if pinned is not None else may_have
            needed = [
                least_memory(loads, choice, load)
                for choice in tried
                if choice in loads.by_choice and (load := loads.by_choice[choice][table]) is not None
            ]
            if not needed:
                return f"{what}: {table_name(model, table)} {_impossible(asked, pinned)}"
            by = f" pinned to {pinned.family}" if pinned is not None else ""
            excess, advice = format_size(min(needed) - max(loads.room, 0.0)), _advice(pinned is not None)
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
    return (
        f"{what}: the tables need {format_size(sum(least))} a GPU, the largest, {table_name(model, largest)}, "
        f"{format_size(least[largest])}; {room}; {_advice(bool(asked.pinned))}"
    )


def _impossible(asked: Search, pinned: Choice | None) -> str:
    """Why a table can have no choice at all: the one that it is pinned to, or those that are left."""
    if pinned is None:
        return f"can have none of {', '.join(asked.strategies)}"
    return f"cannot be {pinned.family}{f' in {pinned.parts} parts' if pinned.parts > 1 else ''}"


def _advice(is_pinned: bool) -> str:
    return (
        f"use more GPUs, rows of fewer bytes (--precision rows=fp16){', or fewer pinned tables' if is_pinned else ''}"
    )
