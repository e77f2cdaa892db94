"""Plain data parallel: dense parameters *and rows* replicated on every worker, only gradients travel.

No weight and no activation crosses the network. Dense gradients are AllReduced; the gradients of the u different rows
of each worker's samples are AllGathered, as are their ids, which is what Horovod does with sparse tensors
(tf.IndexedSlices; Sergeev and Del Balso, arXiv 1802.05799), and every worker updates all U rows of the global batch.
Sent by a worker:

    (N-1) u (W s + k)  +  2 (N-1)/N P_dense s

which grows with N, as do the rows a worker keeps: V, not V/N. It is what is left of data parallelism when a model has
tables, and the reason to shard them. AllGather pads each worker's rows to the most that any worker has; the formulas
take the mean, so a plan of many workers is a little low.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import Plan, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    dense_grad,
    dense_part,
    dense_weights,
    pool_own,
    scatter_own,
    update_dense,
    update_rows,
)


def data_parallel(model: Model) -> Plan:
    """Plan of replicated rows."""
    gather = Collective.ALL_GATHER
    return Plan(
        "data_parallel",
        (
            compute("split_ids", Phase.INPUT, mem="8*(B/N)*m*k", kernels=20, keeps="2*(B/N)*m*k + u*k"),
            collective("row_counts", Phase.INPUT, gather, Traffic.CONTROL, "N*8", "split_ids"),
            collective("row_ids", Phase.INPUT, gather, Traffic.IDS, "N*u*k", "row_counts"),
            compute("lookup", Phase.FORWARD, "split_ids", mem="u*2*(k + W*s)", kernels=12, keeps="u*W*s", rows="u"),
            pool_own("lookup"),
            *dense_part(model, "(B/N)", "pool"),
            dense_grad(model),
            scatter_own(),
            collective("row_grads", Phase.BACKWARD, gather, Traffic.SPARSE, "N*u*W*s", "scatter_grad"),
            compute(
                "sum_grad",
                Phase.BACKWARD,
                "row_ids",
                "row_grads",
                flops="N*u*W",
                mem="N*u*(4*k + 3*W*s) + U*(2*k + W*s)",
                kernels=28,
                keeps="N*u*(k + W*s) + U*(k + W*s)",
            ),
            update_rows(model, "U", "sum_grad"),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
        rows_held="V",
    )
