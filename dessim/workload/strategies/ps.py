"""Parameter server, synchronous: rows and their gradients cross the network.

Servers sit on the N workers and hold rows by hash, so a share 1/N of a worker's rows is its own: each message is an
AllToAll among the workers. Dense parameters are cut in N equal shards, padded, and pulled and pushed whole; that pull
needs nothing of this step, so it is under way from its start. A server keeps nothing between a pull and its push: keys
come with both. Synchronous: it updates its U/N rows once every push has come, and the next pull waits for that.
(DES.md counts 2 u (D s + k) without the local share.) Options: see row_all_to_all.py.
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.options import Options
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective
from dessim.workload.strategies.parts import (
    dense_part,
    dense_weights,
    keys_to_owners,
    lookup_asked,
    pool_own,
    scatter_own,
    sum_asked,
    update_dense,
)
from dessim.workload.strategies.row_all_to_all import (
    asked_rows,
    hot_grad,
    hot_lookup,
    hot_seen,
    stays_of,
    updated,
    with_options,
)


def ps_sync(model: Model, options: Options = Options()) -> Plan:  # noqa: B008 -- frozen
    """Plan of a synchronous parameter server."""
    weights = dense_weights(model)
    dense = f"N*ceil({weights}/N)*s"
    (asked, rows), stays = asked_rows(options), stays_of(options)

    def message(name: str, phase: Phase, traffic: Traffic, size: str, dep: str) -> PlannedOp:
        return collective(name, phase, Collective.ALL_TO_ALL, traffic, size, dep, stays=stays)

    plan = Plan(
        "ps_sync",
        (
            *keys_to_owners("pull_keys", asked, stays),
            *hot_seen(options),
            collective("pull_dense", Phase.FORWARD, Collective.ALL_TO_ALL, Traffic.DENSE, dense),
            lookup_asked("pull_keys", asked, rows),
            message("pull_rows", Phase.FORWARD, Traffic.SPARSE, f"{asked}*W*s", "lookup"),
            *hot_lookup(options),
            pool_own("pull_rows", *(op.name for op in hot_lookup(options))),
            *dense_part(model, "(B/N)", "pool", "pull_dense"),
            collective("push_dense", Phase.BACKWARD, Collective.ALL_TO_ALL, Traffic.DENSE, dense, "dense_backward"),
            scatter_own(),
            *hot_grad(options),
            message("push_keys", Phase.BACKWARD, Traffic.IDS, f"{asked}*k", "scatter_grad"),
            message("push_rows", Phase.BACKWARD, Traffic.SPARSE, f"{asked}*W*s", "scatter_grad"),
            sum_asked("push_keys", "push_rows", asked=asked, rows=rows),
            updated(model, options),
            update_dense(f"ceil({weights}/N)", "update_rows", "push_dense"),
        ),
        caveat="servers answer from GPU memory at once: a lower bound for servers on CPUs, which queue",
    )
    return with_options(plan, model, options)
