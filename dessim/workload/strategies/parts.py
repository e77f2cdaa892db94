"""Ops that several strategies share, so that each is stated once."""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.operators import total
from dessim.workload.plan import PlannedOp, Traffic, collective, compute

POOLED = "F*(W+E)*s"  # bytes of one sample's pooled field vectors, with what fm needs of each beside its sum


def ids_to_owners(bag_sizes: bool = False) -> tuple[PlannedOp, ...]:
    """Each worker sends every id of its B/N samples, with its coordinate, to the worker that owns its row.

    `bag_sizes`: and how many ids its bag has, which an owner of only some of them cannot know.

    What it sends it need not keep.
    """
    message = "(B/N)*m*(k+2*c)" if bag_sizes else "(B/N)*m*(k+c)"
    return (
        compute("split_ids", Phase.INPUT, mem="4*(B/N)*m*k", kernels=10, keeps="(B/N)*m*k"),
        _id_counts(),
        collective("ids", Phase.INPUT, Collective.ALL_TO_ALL, Traffic.IDS, message, "id_counts"),
    )


def keys_to_owners(name: str, asked: str = "u", stays: str = "1/N") -> tuple[PlannedOp, ...]:
    """Each worker sends the u different ids of its B/N samples to the workers that own their rows, as op `name`.

    `asked`: those it sends, where it need not send all; `stays`: the share of them that it owns itself.
    """
    return (
        compute("split_ids", Phase.INPUT, mem="8*(B/N)*m*k", kernels=24, keeps="2*(B/N)*m*k + u*k"),
        _id_counts(),
        collective(name, Phase.INPUT, Collective.ALL_TO_ALL, Traffic.IDS, f"{asked}*k", "id_counts", stays=stays),
    )


def _id_counts() -> PlannedOp:
    """How many ids follow, to each worker."""
    return collective("id_counts", Phase.INPUT, Collective.ALL_TO_ALL, Traffic.CONTROL, "N*8", "split_ids")


def lookup_asked(dep: str, asked: str = "u", rows: str = "U/N") -> PlannedOp:
    """An owner finds the different `rows` among the keys it is `asked` for, on average, and answers every key."""
    return compute(
        "lookup",
        Phase.FORWARD,
        dep,
        mem=f"4*{asked}*k + ({rows})*2*(k + W*s) + {asked}*W*s",
        kernels=28,
        keeps=f"2*{asked}*k + ({rows})*(k + W*s)",
        rows=rows,
    )


def sum_asked(*deps: str, asked: str = "u", rows: str = "U/N") -> PlannedOp:
    """The gradients that came back for these keys, added up for each different row."""
    summed = f"({rows})*W*s"
    return compute(
        "sum_grad", Phase.BACKWARD, *deps, flops=f"{asked}*W", mem=f"2*{asked}*W*s + {summed}", kernels=4, keeps=summed
    )


def pool_own(*deps: str) -> PlannedOp:
    """A worker pools the rows it has fetched for its B/N samples."""
    moved = f"(B/N)*m*(W+E)*s + (B/N)*{POOLED}"
    return compute("pool", Phase.FORWARD, *deps, flops="(B/N)*m*(W+E)", mem=moved, kernels=6, keeps=moved)


def scatter_own() -> PlannedOp:
    """Its backward: gradients of the u different rows of its B/N samples."""
    return compute(
        "scatter_grad",
        Phase.BACKWARD,
        "dense_backward",
        flops="(B/N)*m*(W+E)",
        mem=f"(B/N)*{POOLED} + (B/N)*m*(W+E)*s + u*W*s",
        kernels=8,
        keeps="(B/N)*m*(W+E)*s + u*W*s",
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
    below = [total(model.costs, part) for part in ("shared_weights", "owned_weights")]
    return f"({' + '.join(['P', *(text for text in below if text != '0')])})"


def dense_grad(model: Model) -> PlannedOp:
    """Gradients of replicated weights, each worker's from its own samples."""
    size = f"{dense_weights(model)}*s"
    return collective("dense_grad", Phase.BACKWARD, Collective.ALL_REDUCE, Traffic.DENSE, size, "dense_backward")


def update_rows(model: Model, rows: str, *deps: str) -> PlannedOp:
    """The sparse optimizer on `rows` rows: read and write each row and its state, read its gradient."""
    optimizer = model.row_optimizer
    return compute(
        "update_rows",
        Phase.OPTIMIZER,
        *deps,
        flops=f"{optimizer.flops}*({rows})*W",
        mem=f"({rows})*(3*W+2*O)*s",
        kernels=optimizer.calls(model.row_widths.values()),
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
