"""The synchronous parameter server: rows and their gradients cross the network.

The N workers are the servers too. Rows are spread by hash, so a worker owns a share 1/N of the rows it needs, and each
message is an AllToAll among the workers. Dense parameters are cut into N equal, padded shards, which are pulled and
pushed whole. Their pull depends on nothing in the step, so it is in flight from the start. A server keeps no state
between a pull and its push: both carry the keys. It updates its U/N rows once every push has arrived, and the next pull
waits for that. (DES.md counts 2 u (D s + k), without the local share.) Options: see row_all_to_all.py.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.formula import Formula, ceil
from dessim.workload.model import Model
from dessim.workload.options import Options
from dessim.workload.plan import OwnerRole, Plan, PlannedOp, Traffic, collective
from dessim.workload.strategies.parts import (
    dense_part,
    dense_weights,
    keys_to_owners,
    lookup_requested,
    pool_local,
    scatter_local,
    sum_requested,
    update_dense,
)
from dessim.workload.strategies.row_all_to_all import (
    busiest_by,
    hot_grad,
    hot_lookup,
    hot_seen,
    local_share_of,
    requested_rows,
    rows_message,
    update_owned_and_hot,
    with_options,
)
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import LOCAL_SAMPLES, N, k, s


def ps_sync(model: Model, options: Options) -> Plan:
    """Plan of a synchronous parameter server."""
    shard = ceil(dense_weights(model) / N)  # dense parameters of one server
    requested, rows = requested_rows(options)
    local_share = local_share_of(options)
    plan = Plan(
        "ps_sync",
        (
            *keys_to_owners("pull_keys", requested, local_share),
            *hot_seen(options),
            _dense_message("pull_dense", Phase.FORWARD, shard),
            lookup_requested("pull_keys", requested, rows),
            rows_message("pull_rows", Phase.FORWARD, options, "lookup"),
            *hot_lookup(options),
            pool_local("pull_rows", *(op.name for op in hot_lookup(options))),
            *dense_part(model, LOCAL_SAMPLES, "pool", "pull_dense"),
            _dense_message("push_dense", Phase.BACKWARD, shard, "dense_backward"),
            scatter_local(),
            *hot_grad(options),
            collective(
                "push_keys",
                Phase.BACKWARD,
                Collective.ALL_TO_ALL,
                Traffic.IDS,
                requested * k,
                "scatter_grad",
                local_share=local_share,
                role=OwnerRole.RECEIVES,
            ),
            rows_message("push_rows", Phase.BACKWARD, options, "scatter_grad"),
            sum_requested("push_keys", "push_rows", requested=requested, rows=rows),
            update_owned_and_hot(model, options),
            update_dense(shard, "update_rows", "push_dense"),
        ),
        busiest_by=busiest_by(options),
        is_lower_bound=True,
        caveat="servers answer from GPU memory at once: a lower bound for servers on CPUs, which queue",
    )
    return with_options(plan, model, options)


def _dense_message(name: str, phase: Phase, shard: Formula, *deps: str) -> PlannedOp:
    """Dense parameters, or their gradients, between a worker and all servers: a shard each."""
    return collective(
        name,
        phase,
        Collective.ALL_TO_ALL,
        Traffic.DENSE,
        N * shard * s,
        *deps,
        rows=N,
        width=shard,
    )


# No shampoo: servers hold shards of a flat vector, and Shampoo needs matrices.
PS_SYNC = StrategySpec("ps_sync", build=ps_sync, options=("hot_rows", "look_ahead"), has_servers=True)
