"""Replicas of the tables: N workers in R blocks of L = N/R, each block with a whole copy of all tables.

    in each block           the ops of the groups of tables, on the block's B/R samples: fewer workers exchange less
    between the blocks      replica_counts, replica_ids, replica_grads (AllGather) -> replica_sum -> update_rows

Worker l of each block owns the same rows. After the backward pass those R workers exchange the gradients of the rows
that they touched, with their ids, and all of them apply the sum. So every copy stays equal to the last bit, and a step
trains what it trains without replicas. TorchRec's DMPCollection averages weights and optimizer state every k steps
instead, which is not equivalent to synchronous training.

Replicated tables (data_parallel) and the dense part belong to all N workers. Symbols: R replicas, L workers and B_block
samples of a block; of a group, UR are the distinct ids of the global batch, and U those of a block's samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dessim.errors import UsageError
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.formula import Formula, group, renamed, symbol
from dessim.workload.plan import OwnerRole, Participants, Placement, PlannedOp, TableGroup, Traffic, collective, compute
from dessim.workload.symbols import L, k, s

R = symbol("R")
OF_BLOCK = {"N": "L", "B": "B_block"}
"""The names that symbols of a job have for a block."""
_UPDATE = "update_rows"


def check(replicas: int, placements: Sequence[Placement], splits_columns: bool) -> None:
    """Raises UsageError for tables that replicas cannot have, by the `placements` of their rows."""
    if replicas == 1:
        return
    if splits_columns:
        raise UsageError(f"replicas = {replicas}: column_wise tables have none; plan again --without column_wise")
    if Placement.SERVERS in placements:
        raise UsageError(f"replicas = {replicas}: table_row_wise tables have none; plan again --without table_row_wise")


def block_of(job: Mapping[str, float], replicas: int) -> dict[str, float]:
    """A job's symbols with the workers and samples of a block."""
    return {**job, "N": job["N"] / replicas, "B": job["B"] / replicas}


def symbols_of_blocks(job: Mapping[str, float], replicas: int) -> dict[str, float]:
    """L, B_block and R of a job."""
    block = block_of(job, replicas)
    return {OF_BLOCK["N"]: block["N"], OF_BLOCK["B"]: block["B"], "R": float(replicas)}


def in_blocks(ops: Sequence[PlannedOp], of: TableGroup) -> list[PlannedOp]:
    """The ops of a group, whose symbols are renamed, in each block, with the exchange of gradients between blocks."""
    changed: list[PlannedOp] = []
    for op in ops:
        if op.kind is Kind.COLLECTIVE:
            op = replace(op, participants=Participants.SERVER)
        if op.name == f"{_UPDATE}.{of.name}":
            changed += _exchange(of, op.deps)
            op = replace(renamed(op, {of.symbol("U"): of.symbol("UR")}), deps=(f"replica_sum.{of.name}",))
        changed.append(op)
    return changed


def _exchange(of: TableGroup, after: tuple[str, ...]) -> list[PlannedOp]:
    """The ops that add up the gradients of the workers with one place in all blocks."""
    owned, joint = (group(symbol(of.symbol(name)) / L) for name in ("U", "UR"))
    width = symbol(of.symbol("WU"))
    row = width * s
    counts, ids, grads, summed = (f"replica_{what}.{of.name}" for what in ("counts", "ids", "grads", "sum"))
    return [
        _between(counts, Traffic.CONTROL, R * 8, *after),
        _between(ids, Traffic.IDS, R * owned * k, counts),
        _between(grads, Traffic.SPARSE, R * owned * row, counts),
        compute(
            summed,
            Phase.BACKWARD,
            ids,
            grads,
            flops=R * owned * width,
            mem=R * owned * (4 * k + 3 * row) + joint * (2 * k + row),
            kernels=28,
            keeps=R * owned * (k + row) + joint * (k + row),
            role=OwnerRole.WORKS,
        ),
    ]


def _between(name: str, traffic: Traffic, size: Formula, *deps: str) -> PlannedOp:
    role = OwnerRole.NONE if traffic is Traffic.CONTROL else OwnerRole.WORKS
    op = collective(name, Phase.BACKWARD, Collective.ALL_GATHER, traffic, size, *deps, role=role)
    return replace(op, participants=Participants.BETWEEN)
