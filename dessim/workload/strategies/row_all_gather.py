"""Rows of the global batch on every worker: ids are deduplicated over all workers, rows gathered, gradients scattered.

ScaleFreeCTR's way (Guo et al., SIGIR 2021). Each worker sends its u different ids to their owners, who now know which U
ids the global batch has; an AllGather brings these and their rows to everyone, each once. Workers pool from them, and a
ReduceScatter of the U rows' gradients gives each owner the sums of its own. Bytes sent by a worker:

    (N-1)/N u k + (N-1)/N U k + 2 (N-1)/N U W s

Each row moves once, whoever needs it: cheaper than every worker's pooled operand while U W < B F (W + E), dearer than
row_all_to_all always, since U >= u. AllGather wants equal shares: each owner's rows are padded to the most that any
owner has; the formulas take the mean U/N.

With `cache_rows` the rows live in the host's memory and a worker's GPU keeps those it used last. What a step needs and
is not there is copied in, with its optimizer's state, and as many go back: M (W + O) s bytes each way. Without, all
rows are in the GPU's memory and nothing is copied.
"""

from __future__ import annotations

from dataclasses import replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.ids import ZipfLaw
from dessim.workload.model import Model
from dessim.workload.options import Expected, Options
from dessim.workload.plan import Plan, Traffic, collective, compute, copy
from dessim.workload.strategies.parts import (
    dense_grad,
    dense_part,
    dense_weights,
    keys_to_owners,
    pool_own,
    scatter_own,
    update_dense,
    update_rows,
)


def row_all_gather(model: Model, options: Options = Options()) -> Plan:  # noqa: B008 -- frozen
    """Plan of everyone's rows on everyone."""
    gather, scatter, cached = Collective.ALL_GATHER, Collective.REDUCE_SCATTER, bool(options.cache_rows)
    copies = (
        compute("find", Phase.FORWARD, "merge_ids", mem="(U/N)*8*k", kernels=20),
        copy("rows_out", Phase.FORWARD, "M*(W+O)*s", "find"),
        copy("rows_in", Phase.FORWARD, "M*(W+O)*s", "rows_out"),
    )
    plan = Plan(
        "row_all_gather",
        (
            *keys_to_owners("ids"),
            compute("merge_ids", Phase.INPUT, "ids", mem="6*u*k", kernels=12, keeps="2*u*k"),
            collective("row_counts", Phase.INPUT, gather, Traffic.CONTROL, "N*8", "merge_ids"),
            collective("row_ids", Phase.INPUT, gather, Traffic.IDS, "U*k", "row_counts"),
            compute(
                "place_ids", Phase.INPUT, "row_ids", mem="12*U*k + 4*u*k + 2*(B/N)*m*k", kernels=20, keeps="(B/N)*m*k"
            ),
            *(copies if cached else ()),
            compute(
                "lookup",
                Phase.FORWARD,
                "rows_in" if cached else "merge_ids",
                mem="(U/N)*2*(k + W*s)",
                kernels=16,
                keeps="(U/N)*W*s",
                rows="U/N",
            ),
            collective("rows", Phase.FORWARD, gather, Traffic.SPARSE, "U*W*s", "lookup"),
            pool_own("rows", "place_ids"),
            *dense_part(model, "(B/N)", "pool"),
            dense_grad(model),
            replace(scatter_own(), mem=f"{scatter_own().mem} + U*W*s", keeps=f"{scatter_own().keeps} + U*W*s"),
            collective("rows_grad", Phase.BACKWARD, scatter, Traffic.SPARSE, "U*W*s", "scatter_grad"),
            update_rows(model, "U/N", "rows_grad"),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
    )
    if not cached:
        return plan
    law = ZipfLaw(model.input.vocabulary, model.input.skew)
    return replace(plan, strategy=plan.strategy + str(options), rows_held="C", own_symbols=Expected(options, law))
