"""Sharded tables as TorchRec names them, and the operand's AllReduce: what DES competes with.

Every worker runs the dense part on its own B/N samples; what crosses the network is the operand of the operators:

    table_wise      a table lives on one worker; pooled field vectors by AllToAll, gradients back the same way
    row_wise        a table's rows are spread by hash; pooled partials by ReduceScatter, gradients by AllGather
    row_all_to_all  rows are spread by hash; unique rows are fetched and their gradients returned by AllToAll
    mesh            rows are spread; the pooled operand is AllReduced and the dense part runs replicated

A row carries W floats (the embedding, and the linear weight beside it). Bytes: DES.md of the method, checked in
tests/workload/test_strategies.py against its worked examples.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    POOLED,
    dense_part,
    dense_weights,
    ids_to_owners,
    pool_own,
    scatter_own,
    update_dense,
    update_rows,
)


def table_wise(model: Model) -> Plan:
    """Plan of table-wise sharding. Tables are assumed balanced: each worker looks up its share of the ids."""
    own = f"(B/N)*{POOLED}"
    return Plan(
        "table_wise",
        (
            *ids_to_owners("k", lengths="(B/N)*F*c"),
            *_lookup_and_pool(f"B*{POOLED}/N"),
            collective("pooled", Phase.FORWARD, Collective.ALL_TO_ALL, Traffic.SPARSE, own, "pool"),
            *dense_part(model, "(B/N)", "pooled"),
            collective("pooled_grad", Phase.BACKWARD, Collective.ALL_TO_ALL, Traffic.SPARSE, own, "dense_backward"),
            *_data_parallel(model),
            *_scatter_and_update(model, "pooled_grad", f"B*{POOLED}/N"),
        ),
        caveat="tables count as balanced over the workers, which needs at least as many equal tables as workers",
    )


def row_wise(model: Model) -> Plan:
    """Plan of row-wise sharding."""
    whole = f"B*{POOLED}"
    return Plan(
        "row_wise",
        (
            *ids_to_owners("k", lengths="B*F*c"),
            *_lookup_and_pool(whole),
            collective("pooled", Phase.FORWARD, Collective.REDUCE_SCATTER, Traffic.SPARSE, whole, "pool"),
            *dense_part(model, "(B/N)", "pooled"),
            collective("pooled_grad", Phase.BACKWARD, Collective.ALL_GATHER, Traffic.SPARSE, whole, "dense_backward"),
            *_data_parallel(model),
            *_scatter_and_update(model, "pooled_grad", whole),
        ),
    )


def mesh(model: Model) -> Plan:
    """Plan of the operand's AllReduce; the dense part is replicated, so its gradients need no exchange."""
    whole = f"B*{POOLED}"
    labels = collective("labels", Phase.INPUT, Collective.ALL_GATHER, Traffic.CONTROL, "B*4", "split_ids")
    return Plan(
        "mesh",
        (
            *ids_to_owners("(k+c)", lengths=None),
            labels,
            *_lookup_and_pool(whole),
            collective("pooled", Phase.FORWARD, Collective.ALL_REDUCE, Traffic.SPARSE, whole, "pool"),
            *dense_part(model, "B", "pooled", "labels"),
            *_scatter_and_update(model, "dense_backward", whole, synced=False),
        ),
    )


def row_all_to_all(model: Model) -> Plan:
    """Plan of fetching unique rows: the worker pools them itself."""
    rows = "u*W*s"
    return Plan(
        "row_all_to_all",
        (
            *ids_to_owners("k", lengths=None),
            compute(
                "lookup",
                Phase.FORWARD,
                "ids",
                mem="4*(B*m/N)*k + u*2*(k + W*s)",
                kernels=24,
                keeps="(B*m/N)*k + u*W*s",
                rows="u",
            ),
            collective("rows", Phase.FORWARD, Collective.ALL_TO_ALL, Traffic.SPARSE, rows, "lookup"),
            pool_own("rows"),
            *dense_part(model, "(B/N)", "pool"),
            scatter_own(),
            collective("rows_grad", Phase.BACKWARD, Collective.ALL_TO_ALL, Traffic.SPARSE, rows, "scatter_grad"),
            *_data_parallel(model),
            update_rows("u", "rows_grad"),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
    )


def _lookup_and_pool(out: str) -> tuple[PlannedOp, ...]:
    moved = f"(B*m/N)*W*s + {out}"
    return (
        compute(
            "lookup",
            Phase.FORWARD,
            "ids",
            mem="4*(B*m/N)*k + (U/N)*2*(k + W*s)",
            kernels=24,
            keeps="(B*m/N)*k + (U/N)*W*s",
            rows="U/N",
        ),
        compute("pool", Phase.FORWARD, "lookup", flops="(B*m/N)*W", mem=moved, kernels=4, keeps=moved),
    )


def _data_parallel(model: Model) -> tuple[PlannedOp, ...]:
    return (
        collective(
            "dense_grad",
            Phase.BACKWARD,
            Collective.ALL_REDUCE,
            Traffic.DENSE,
            f"{dense_weights(model)}*s",
            "dense_backward",
        ),
    )


def _scatter_and_update(model: Model, dep: str, pooled: str, synced: bool = True) -> tuple[PlannedOp, ...]:
    return (
        compute(
            "scatter_grad",
            Phase.BACKWARD,
            dep,
            flops="(B*m/N)*W",
            mem=f"{pooled} + (B*m/N)*W*s + (U/N)*W*s",
            kernels=6,
            keeps="(B*m/N)*W*s + (U/N)*W*s",
        ),
        update_rows("U/N", "scatter_grad"),
        update_dense(dense_weights(model), "update_rows", *(("dense_grad",) if synced else ())),
    )
