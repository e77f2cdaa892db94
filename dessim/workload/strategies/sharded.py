"""Sharded tables whose owners pool, and the operand's AllReduce: the strategies that DES competes with.

The operand, the pooled vectors of all fields, crosses the network. The names of the first two are TorchRec's.

    table_wise      A table lives on one worker. Pooled field vectors are sent by AllToAll, and so are their gradients.
    row_wise        A table's rows are spread by hash. Partial pooled vectors are summed by ReduceScatter, and gradients
                    return by AllGather.
    mesh            Rows are spread by hash. The pooled operand is AllReduced, and the dense part runs replicated on the
                    global batch.

With table_wise and row_wise every worker runs the dense part on its own B/N samples. A row has W floats: the embedding
and the linear weight. A pooled field vector has E more, which fm needs of each bag. Where rows are spread, an id
travels with its coordinate. For table_wise it travels without: the lengths of all bags are sent first, which also give
the number of ids. The bytes are those of DES.md, checked against its worked examples in
tests/workload/test_strategies.py.
"""

from __future__ import annotations

from dessim.compute import Access
from dessim.trace.schema import Collective, Phase
from dessim.workload.formula import ZERO, Formula, group
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, Placement, Plan, PlannedOp, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    LOCAL_IDS,
    POOLED,
    dense_grad,
    dense_inputs,
    dense_part,
    dense_weights,
    ids_to_owners,
    update_dense,
    update_rows,
)
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import (
    BAG,
    BAG_TERM,
    LOCAL_SAMPLES,
    OWNED_IDS,
    OWNED_ROWS,
    WU,
    B,
    F,
    N,
    U,
    Wm,
    c,
    k,
    s,
    so,
    sr,
)


def table_wise(model: Model) -> Plan:
    """Plan of table-wise sharding. Field f lives on worker f mod N; with more workers than fields some own none."""
    pooled = LOCAL_SAMPLES * POOLED
    a2a = Collective.ALL_TO_ALL
    receives = OwnerRole.RECEIVES
    return Plan(
        "table_wise",
        (
            compute("split_ids", Phase.INPUT, mem=4 * LOCAL_IDS * k, kernels=10, keeps=2 * LOCAL_IDS * k),
            collective("lengths", Phase.INPUT, a2a, Traffic.CONTROL, LOCAL_SAMPLES * F * c, "split_ids", role=receives),
            collective("ids", Phase.INPUT, a2a, Traffic.IDS, LOCAL_IDS * k, "lengths", role=receives),
            *lookup_and_pool(pooled),
            _pooled(model, a2a, LOCAL_SAMPLES),
            *dense_part(model, LOCAL_SAMPLES, "pooled"),
            _pooled_grad(a2a, pooled),
            dense_grad(model),
            *scatter_and_update(model, "pooled_grad", pooled),
        ),
        placement=Placement.TABLES,
        owned=("F", "V", "m", "u", "U"),
    )


def row_wise(model: Model) -> Plan:
    """Plan of row-wise sharding."""
    pooled = B * POOLED
    return Plan(
        "row_wise",
        (
            *ids_to_owners(),
            *lookup_and_pool(pooled),
            _pooled(model, Collective.REDUCE_SCATTER, B),
            *dense_part(model, LOCAL_SAMPLES, "pooled"),
            _pooled_grad(Collective.ALL_GATHER, pooled),
            dense_grad(model),
            *scatter_and_update(model, "pooled_grad", pooled),
        ),
    )


def mesh(model: Model) -> Plan:
    """Plan of the operand's AllReduce. The dense part is replicated, so its gradients need no exchange."""
    pooled = B * POOLED
    return Plan(
        "mesh",
        (
            # Every worker computes every sample's loss, so it needs every label.
            collective("labels", Phase.INPUT, Collective.ALL_GATHER, Traffic.CONTROL, B * 4),
            *dense_inputs(model),
            *ids_to_owners(),
            *lookup_and_pool(pooled),
            _pooled(model, Collective.ALL_REDUCE, B),
            *dense_part(model, B, "pooled", "labels", *(op.name for op in dense_inputs(model))),
            *scatter_and_update(model, "dense_backward", pooled, replicated=True),
        ),
    )


def _pooled(model: Model, op: Collective, samples: Formula) -> PlannedOp:
    """The collective that moves the pooled field vectors of `samples` samples."""
    # A codec must leave sums alone whose difference counts, and bags that carry their size for a mean.
    exact = model.pools_mean or any(o.cancels for o in model.operators)
    return collective(
        "pooled",
        Phase.FORWARD,
        op,
        Traffic.SPARSE,
        samples * POOLED,
        "pool",
        rows=group(samples * F),
        width=ZERO if exact else BAG,
        exact_width=BAG if exact else ZERO,
        role=OwnerRole.SENDS if op is Collective.ALL_TO_ALL else OwnerRole.NONE,
    )


def _pooled_grad(op: Collective, size: Formula) -> PlannedOp:
    """The collective that returns the gradients of a worker's pooled field vectors."""
    return collective(
        "pooled_grad",
        Phase.BACKWARD,
        op,
        Traffic.SPARSE,
        size,
        "dense_backward",
        rows=group(LOCAL_SAMPLES * F),
        width=BAG,
        role=OwnerRole.RECEIVES if op is Collective.ALL_TO_ALL else OwnerRole.NONE,
    )


def lookup_and_pool(pooled: Formula) -> tuple[PlannedOp, ...]:
    """Owners look up the ids they received and pool them into `pooled` bytes."""
    moved = OWNED_IDS * BAG_TERM * sr + pooled
    return (
        compute(
            "lookup",
            Phase.FORWARD,
            "ids",
            mem=4 * OWNED_IDS * k + OWNED_ROWS * 2 * (k + WU * sr),
            kernels=24,
            keeps=OWNED_IDS * k + OWNED_ROWS * WU * sr,
            table_rows=U / N,
            access=Access.GATHER,
            row_bytes=WU * sr,
            role=OwnerRole.WORKS,
        ),
        compute(
            "pool",
            Phase.FORWARD,
            "lookup",
            flops=OWNED_IDS * BAG_TERM,
            mem=moved,
            kernels=6,
            keeps=3 * OWNED_IDS * k + pooled,
            access=Access.POOL,
            row_bytes=Wm * sr,
            role=OwnerRole.WORKS,
        ),
    )


def scatter_and_update(model: Model, dep: str, pooled: Formula, replicated: bool = False) -> tuple[PlannedOp, ...]:
    """Owners turn gradients of pooled vectors, `pooled` bytes, into those of rows, and both optimizers run.

    `replicated`: whether the dense gradients are the same on all workers without an exchange.
    """
    gradients = OWNED_IDS * BAG_TERM * s + OWNED_ROWS * WU * so
    return (
        compute(
            "scatter_grad",
            Phase.BACKWARD,
            dep,
            flops=OWNED_IDS * BAG_TERM,
            mem=pooled + gradients,
            kernels=8,
            keeps=3 * OWNED_IDS * k + OWNED_ROWS * WU * so,
            access=Access.SCATTER,
            row_bytes=Wm * s,
            role=OwnerRole.WORKS,
        ),
        update_rows(model, U / N, "scatter_grad"),
        update_dense(dense_weights(model), "update_rows", *(() if replicated else ("dense_grad",))),
    )


TABLE_WISE = StrategySpec(
    "table_wise",
    build=lambda model, options: table_wise(model),
    options=("shampoo",),
    table_placement=Placement.TABLES,
)
ROW_WISE = StrategySpec(
    "row_wise",
    build=lambda model, options: row_wise(model),
    options=("shampoo",),
    table_placement=Placement.HASH,
)
MESH = StrategySpec("mesh", build=lambda model, options: mesh(model), options=("shampoo",))
