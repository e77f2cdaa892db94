"""Row AllGather: every worker gets all rows of the global batch once. The strategy of ScaleFreeCTR (Guo et al., SIGIR
2021).

Each worker sends its u distinct ids to their owners, which then know the U distinct ids of the global batch. An
AllGather brings these ids and their rows to every worker, each once. Workers pool from them. A ReduceScatter of the
gradients of the U rows leaves each owner the sums of its own rows. A worker sends

    (N-1)/N u k + (N-1)/N U k + 2 (N-1)/N U W s

bytes. Each row is sent once, however many workers need it. That is cheaper than sending every worker's pooled operand
while U W < B F (W + E). It is never cheaper than row_all_to_all, since U >= u. AllGather needs equal shares, so each
owner's rows are padded to the largest share of any owner; the formulas take the mean, U/N.

With `cache_rows` the rows live in the host's memory and a worker's GPU keeps the most recently used ones. The rows that
a step needs and the cache lacks are copied in with their optimizer state, and equally many are copied out: M (W + O) s
bytes in each direction. Without it all rows are in the GPU's memory and nothing is copied.
"""

from __future__ import annotations

from dataclasses import replace

from dessim.compute import Access
from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.options import Expected, Options
from dessim.workload.plan import OwnerRole, Plan, Traffic, collective, compute, copy
from dessim.workload.strategies.parts import (
    LOCAL_IDS,
    dense_grad,
    dense_part,
    dense_weights,
    keys_to_owners,
    pool_local,
    scatter_local,
    update_dense,
    update_rows,
)
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import COUNTS, LOCAL_SAMPLES, OWNED_ROWS, ROW_AND_STATE, WU, C, M, N, U, k, s, sr, u


def row_all_gather(model: Model, options: Options) -> Plan:
    """Plan of gathering all rows of the global batch on every worker."""
    gather = Collective.ALL_GATHER
    cached = bool(options.cache_rows)
    misses = M * ROW_AND_STATE
    copies = (
        compute("find", Phase.FORWARD, "merge_ids", mem=OWNED_ROWS * 8 * k, kernels=20, role=OwnerRole.WORKS),
        copy("rows_out", Phase.FORWARD, misses, "find"),
        copy("rows_in", Phase.FORWARD, misses, "rows_out"),
    )
    plan = Plan(
        "row_all_gather",
        (
            *keys_to_owners("ids"),
            compute("merge_ids", Phase.INPUT, "ids", mem=6 * u * k, kernels=12, keeps=2 * u * k, role=OwnerRole.WORKS),
            collective("row_counts", Phase.INPUT, gather, Traffic.CONTROL, COUNTS, "merge_ids"),
            collective("row_ids", Phase.INPUT, gather, Traffic.IDS, U * k, "row_counts", role=OwnerRole.PADS),
            compute(
                "place_ids",
                Phase.INPUT,
                "row_ids",
                mem=12 * U * k + 4 * u * k + 2 * LOCAL_IDS * k,
                kernels=20,
                keeps=LOCAL_IDS * k,
            ),
            *(copies if cached else ()),
            compute(
                "lookup",
                Phase.FORWARD,
                "rows_in" if cached else "merge_ids",
                mem=OWNED_ROWS * 2 * (k + WU * sr),
                kernels=16,
                keeps=OWNED_ROWS * WU * sr,
                table_rows=U / N,
                access=Access.GATHER,
                row_bytes=WU * sr,
                role=OwnerRole.WORKS,
            ),
            collective(
                "rows",
                Phase.FORWARD,
                gather,
                Traffic.SPARSE,
                U * WU * s,
                "lookup",
                rows=OWNED_ROWS,
                width=WU,
                role=OwnerRole.PADS,
            ),
            pool_local("rows", "place_ids"),
            *dense_part(model, LOCAL_SAMPLES, "pool"),
            dense_grad(model),
            scatter_local(more=U * WU * s),
            collective(
                "rows_grad",
                Phase.BACKWARD,
                Collective.REDUCE_SCATTER,
                Traffic.SPARSE,
                U * WU * s,
                "scatter_grad",
                rows=U,
                width=WU,
                role=OwnerRole.PADS,
            ),
            update_rows(model, U / N, "rows_grad"),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
        busiest_by="U",
    )
    if not cached:
        return plan
    return replace(plan, strategy=plan.strategy + str(options), rows_held=C, own_symbols=Expected(options, model.law))


ROW_ALL_GATHER = StrategySpec("row_all_gather", build=row_all_gather, options=("cache_rows", "shampoo"))
