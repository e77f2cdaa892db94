"""Parameter server, synchronous: rows and their gradients cross the network.

Servers sit on the N workers and hold rows by hash, so a share 1/N of a worker's rows is its own: each message is an
AllToAll among the workers. Dense parameters are cut in N equal shards, padded, and pulled and pushed whole; that pull
needs nothing of this step, so it is under way from its start. A server keeps nothing between a pull and its push: keys
come with both. Synchronous: it updates its U/N rows once every push has come, and the next pull waits for that.
(DES.md counts 2 u (D s + k) without the local share.)
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import Plan, Traffic, collective
from dessim.workload.strategies.parts import (
    dense_part,
    dense_weights,
    keys_to_owners,
    lookup_asked,
    pool_own,
    scatter_own,
    sum_asked,
    update_dense,
    update_rows,
)


def ps_sync(model: Model) -> Plan:
    """Plan of a synchronous parameter server."""
    weights = dense_weights(model)
    dense = f"N*ceil({weights}/N)*s"
    a2a = Collective.ALL_TO_ALL
    return Plan(
        "ps_sync",
        (
            *keys_to_owners("pull_keys"),
            collective("pull_dense", Phase.FORWARD, a2a, Traffic.DENSE, dense),
            lookup_asked("pull_keys"),
            collective("pull_rows", Phase.FORWARD, a2a, Traffic.SPARSE, "u*W*s", "lookup"),
            pool_own("pull_rows"),
            *dense_part(model, "(B/N)", "pool", "pull_dense"),
            collective("push_dense", Phase.BACKWARD, a2a, Traffic.DENSE, dense, "dense_backward"),
            scatter_own(),
            collective("push_keys", Phase.BACKWARD, a2a, Traffic.IDS, "u*k", "scatter_grad"),
            collective("push_rows", Phase.BACKWARD, a2a, Traffic.SPARSE, "u*W*s", "scatter_grad"),
            sum_asked("push_keys", "push_rows"),
            update_rows(model, "U/N", "sum_grad"),
            update_dense(f"ceil({weights}/N)", "update_rows", "push_dense"),
        ),
        caveat="servers answer from GPU memory at once: a lower bound for servers on CPUs, which queue",
    )
