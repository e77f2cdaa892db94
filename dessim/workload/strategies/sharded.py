"""Sharded tables whose owners pool, as TorchRec names them, and the operand's AllReduce: what DES competes with.

Every worker runs the dense part on its own B/N samples; what crosses the network is the operand of the operators:

    table_wise      a table lives on one worker; pooled field vectors by AllToAll, gradients back the same way
    row_wise        a table's rows are spread by hash; pooled partials by ReduceScatter, gradients by AllGather
    mesh            rows are spread; the pooled operand is AllReduced and the dense part runs replicated

A row carries W floats (the embedding, and the linear weight beside it); a pooled field vector E more, what fm needs of
each id. Where rows are spread, an id travels with its coordinate; to a table it travels without, behind the lengths of
all bags, which also say how many ids follow. Bytes: DES.md of the method, checked in tests/workload/test_strategies.py
against its worked examples.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    POOLED,
    dense_grad,
    dense_part,
    dense_weights,
    ids_to_owners,
    update_dense,
    update_rows,
)


def table_wise(model: Model) -> Plan:
    """Plan of table-wise sharding. Tables are assumed balanced: each worker looks up its share of the ids."""
    own, a2a = f"(B/N)*{POOLED}", Collective.ALL_TO_ALL
    return Plan(
        "table_wise",
        (
            compute("split_ids", Phase.INPUT, mem="4*(B/N)*m*k", kernels=10, keeps="2*(B/N)*m*k"),
            collective("lengths", Phase.INPUT, a2a, Traffic.CONTROL, "(B/N)*F*c", "split_ids"),
            collective("ids", Phase.INPUT, a2a, Traffic.IDS, "(B/N)*m*k", "lengths"),
            *_lookup_and_pool(own),
            collective("pooled", Phase.FORWARD, a2a, Traffic.SPARSE, own, "pool"),
            *dense_part(model, "(B/N)", "pooled"),
            collective("pooled_grad", Phase.BACKWARD, a2a, Traffic.SPARSE, own, "dense_backward"),
            dense_grad(model),
            *_scatter_and_update(model, "pooled_grad", own),
        ),
        caveat="tables count as balanced over the workers, which needs at least as many equal tables as workers",
    )


def row_wise(model: Model) -> Plan:
    """Plan of row-wise sharding."""
    whole = f"B*{POOLED}"
    return Plan(
        "row_wise",
        (
            *ids_to_owners(),
            *_lookup_and_pool(whole),
            collective("pooled", Phase.FORWARD, Collective.REDUCE_SCATTER, Traffic.SPARSE, whole, "pool"),
            *dense_part(model, "(B/N)", "pooled"),
            collective("pooled_grad", Phase.BACKWARD, Collective.ALL_GATHER, Traffic.SPARSE, whole, "dense_backward"),
            dense_grad(model),
            *_scatter_and_update(model, "pooled_grad", whole),
        ),
    )


def mesh(model: Model) -> Plan:
    """Plan of the operand's AllReduce; the dense part is replicated, so its gradients need no exchange."""
    whole = f"B*{POOLED}"
    return Plan(
        "mesh",
        (
            # Every worker computes every sample's loss, so it needs every label.
            collective("labels", Phase.INPUT, Collective.ALL_GATHER, Traffic.CONTROL, "B*4"),
            *ids_to_owners(),
            *_lookup_and_pool(whole),
            collective("pooled", Phase.FORWARD, Collective.ALL_REDUCE, Traffic.SPARSE, whole, "pool"),
            *dense_part(model, "B", "pooled", "labels"),
            *_scatter_and_update(model, "dense_backward", whole, replicated=True),
        ),
    )


def _lookup_and_pool(out: str) -> tuple[PlannedOp, ...]:
    moved = f"(B*m/N)*(W+E)*s + {out}"
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
        compute("pool", Phase.FORWARD, "lookup", flops="(B*m/N)*(W+E)", mem=moved, kernels=6, keeps=moved),
    )


def _scatter_and_update(model: Model, dep: str, pooled: str, replicated: bool = False) -> tuple[PlannedOp, ...]:
    return (
        compute(
            "scatter_grad",
            Phase.BACKWARD,
            dep,
            flops="(B*m/N)*(W+E)",
            mem=f"{pooled} + (B*m/N)*(W+E)*s + (U/N)*W*s",
            kernels=8,
            keeps="(B*m/N)*(W+E)*s + (U/N)*W*s",
        ),
        update_rows(model, "U/N", "scatter_grad"),
        update_dense(dense_weights(model), "update_rows", *(() if replicated else ("dense_grad",))),
    )
