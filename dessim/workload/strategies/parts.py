"""Ops that several strategies share, so that each is stated once."""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.plan import PlannedOp, Traffic, collective, compute


def ids_to_owners(bytes_per_id: str, lengths: str | None) -> tuple[PlannedOp, ...]:
    """Each worker sends the ids of its B/N samples to the workers that own their rows.

    `bytes_per_id` is a formula; `lengths` the size of the ids-a-bag message where ids travel without coordinates.
    """
    ops = [
        compute("split_ids", Phase.INPUT, mem="4*(B/N)*m*k", kernels=10),
        collective("id_counts", Phase.INPUT, Collective.ALL_TO_ALL, Traffic.CONTROL, "N*8", "split_ids"),
    ]
    if lengths is not None:
        ops.append(collective("lengths", Phase.INPUT, Collective.ALL_TO_ALL, Traffic.CONTROL, lengths, "id_counts"))
    ops.append(
        collective(
            "ids",
            Phase.INPUT,
            Collective.ALL_TO_ALL,
            Traffic.IDS,
            f"(B/N)*m*{bytes_per_id}",
            "id_counts",
            *(("lengths",) if lengths is not None else ()),
        )
    )
    return tuple(ops)


def update_rows(rows: str, *deps: str) -> PlannedOp:
    """The sparse optimizer on `rows` rows: read and write each row, its gradient and its slot."""
    return compute("update_rows", Phase.OPTIMIZER, *deps, flops=f"6*({rows})*W", mem=f"({rows})*(3*W+2)*s", kernels=8)


def update_dense(weights: str, *deps: str) -> PlannedOp:
    """Adam on the replicated weights: reads weight, gradient and two moments, writes weight and moments."""
    return compute("update_dense", Phase.OPTIMIZER, *deps, flops=f"12*{weights}", mem=f"7*{weights}*s", kernels=14)
