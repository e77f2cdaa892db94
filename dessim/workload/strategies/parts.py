"""Ops that several strategies share, so that each is stated once."""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.operators import total
from dessim.workload.plan import PlannedOp, Traffic, collective, compute

POOLED = "F*(W+E)*s"  # bytes of one sample's pooled field vectors, with what fm needs of each beside its sum


def ids_to_owners(bytes_per_id: str, lengths: str | None) -> tuple[PlannedOp, ...]:
    """Each worker sends the ids of its B/N samples to the workers that own their rows.

    `bytes_per_id` is a formula; `lengths` the size of the ids-a-bag message where ids travel without coordinates.
    """
    ops = [
        compute("split_ids", Phase.INPUT, mem="4*(B/N)*m*k", kernels=10, keeps=f"(B/N)*m*k + (B/N)*m*{bytes_per_id}"),
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


def pool_own(dep: str) -> PlannedOp:
    """A worker pools the rows it has fetched for its B/N samples."""
    moved = f"(B/N)*m*W*s + (B/N)*{POOLED}"
    return compute("pool", Phase.FORWARD, dep, flops="(B/N)*m*W", mem=moved, kernels=4, keeps=moved)


def scatter_own() -> PlannedOp:
    """Its backward: gradients of the u different rows of its B/N samples."""
    return compute(
        "scatter_grad",
        Phase.BACKWARD,
        "dense_backward",
        flops="(B/N)*m*W",
        mem=f"(B/N)*{POOLED} + (B/N)*m*W*s + u*W*s",
        kernels=6,
        keeps="(B/N)*m*W*s + u*W*s",
    )


def dense_part(model: Model, samples: str, *deps: str) -> tuple[PlannedOp, ...]:
    """All operators over pooled vectors, first FC layer included, on `samples` samples."""
    flops = total(model.costs, "pooled_flops")
    return (
        compute(
            "dense_forward",
            Phase.FORWARD,
            *deps,
            flops=f"{samples}*({flops})",
            mem=f"{samples}*({POOLED} + 2*Z*s) + {dense_weights(model)}*s",
            kernels=18,
            keeps=f"{samples}*Z*s",
        ),
        compute(
            "dense_backward",
            Phase.BACKWARD,
            "dense_forward",
            flops=f"2*{samples}*({flops})",
            mem=f"2*{samples}*({POOLED} + 2*Z*s) + 2*{dense_weights(model)}*s",
            kernels=32,
            keeps=f"{samples}*{POOLED} + {dense_weights(model)}*s",
        ),
    )


def dense_weights(model: Model) -> str:
    """Replicated weights: the tail's, and those that would feed on partials where operators are substituted."""
    return f"(P + {total(model.costs, 'shared_weights')})"


def update_rows(rows: str, *deps: str) -> PlannedOp:
    """The sparse optimizer on `rows` rows: read and write each row and its state, read its gradient."""
    return compute(
        "update_rows",
        Phase.OPTIMIZER,
        *deps,
        flops=f"6*({rows})*W",
        mem=f"({rows})*(3*W+2*O)*s",
        kernels=8,
        rows=rows,
    )


def update_dense(weights: str, *deps: str) -> PlannedOp:
    """Adam on the replicated weights: reads weight, gradient and two moments, writes weight and moments."""
    return compute(
        "update_dense",
        Phase.OPTIMIZER,
        *deps,
        flops=f"12*{weights}",
        mem=f"7*{weights}*s",
        kernels=14,
        keeps=f"3*{weights}*s",
    )
