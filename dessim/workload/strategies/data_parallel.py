"""Plain data parallelism: dense parameters *and rows* are replicated on every worker, and only gradients are sent.

No weight and no activation crosses the network. Dense gradients are AllReduced. The gradients of the u distinct rows of
each worker's samples are AllGathered with their ids, as Horovod does with sparse tensors (tf.IndexedSlices; Sergeev and
Del Balso, arXiv 1802.05799), and every worker updates all U rows of the global batch. A worker sends

    (N-1) u (W s + k)  +  2 (N-1)/N P_dense s

bytes, which grow with N. So do the rows that a worker holds: V, not V/N. Tables are sharded to avoid both. AllGather
pads each worker's rows to the largest count of any worker. The formulas take the mean, so a plan for many workers is
slightly low.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import OwnerRole, Placement, Plan, Traffic, collective, compute
from dessim.workload.strategies.parts import (
    LOCAL_IDS,
    dense_grad,
    dense_part,
    dense_weights,
    lookup_own,
    pool_local,
    scatter_local,
    update_dense,
    update_rows,
)
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import COUNTS, LOCAL_SAMPLES, WU, N, U, V, Wu, k, s, u


def data_parallel(model: Model) -> Plan:
    """Plan of replicated rows."""
    gather = Collective.ALL_GATHER
    return Plan(
        "data_parallel",
        (
            compute("split_ids", Phase.INPUT, mem=8 * LOCAL_IDS * k, kernels=20, keeps=2 * LOCAL_IDS * k + u * k),
            collective("row_counts", Phase.INPUT, gather, Traffic.CONTROL, COUNTS, "split_ids"),
            collective("row_ids", Phase.INPUT, gather, Traffic.IDS, N * u * k, "row_counts"),
            lookup_own("lookup", u),
            pool_local("lookup"),
            *dense_part(model, LOCAL_SAMPLES, "pool"),
            dense_grad(model),
            scatter_local(),
            collective(
                "row_grads",
                Phase.BACKWARD,
                gather,
                Traffic.SPARSE,
                N * u * Wu * s,
                "scatter_grad",
                rows=u,
                width=Wu,
            ),
            compute(
                "sum_grad",
                Phase.BACKWARD,
                "row_ids",
                "row_grads",
                flops=N * u * Wu,
                mem=N * u * (4 * k + 3 * Wu * s) + U * (2 * k + WU * s),
                kernels=28,
                keeps=N * u * (k + Wu * s) + U * (k + WU * s),
            ),
            update_rows(model, U, "sum_grad", role=OwnerRole.NONE),
            update_dense(dense_weights(model), "update_rows", "dense_grad"),
        ),
        rows_held=V,
        placement=Placement.REPLICATED,
    )


DATA_PARALLEL = StrategySpec(
    "data_parallel",
    build=lambda model, options: data_parallel(model),
    options=("shampoo",),
    table_placement=Placement.REPLICATED,
)
