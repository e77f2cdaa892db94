"""Parameter server, synchronous: rows and their gradients cross the network.

Servers sit on the N workers and hold rows by hash, so a share 1/N of a worker's rows is its own: each message is an
AllToAll among the workers. Dense parameters are sharded over the servers and pulled and pushed whole.
Synchronous: the next pull waits for every push. (DES.md counts 2 u (D s + k) without the local share.)
"""

from __future__ import annotations

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import Plan, Traffic, collective, compute
from dessim.workload.strategies.parts import dense_part, dense_weights, pool_own, scatter_own, update_dense, update_rows


def ps_sync(model: Model) -> Plan:
    """Plan of a synchronous parameter server."""
    weights = dense_weights(model)
    a2a = Collective.ALL_TO_ALL
    return Plan(
        "ps_sync",
        (
            # unique ids, by server
            compute("split_ids", Phase.INPUT, mem="8*(B/N)*m*k", kernels=24, keeps="2*(B/N)*m*k + u*k"),
            collective("pull_keys", Phase.INPUT, a2a, Traffic.IDS, "u*k", "split_ids"),
            compute("lookup", Phase.FORWARD, "pull_keys", mem="2*u*(k + W*s)", kernels=12, keeps="u*W*s", rows="u"),
            collective("pull_rows", Phase.FORWARD, a2a, Traffic.SPARSE, "u*W*s", "lookup"),
            collective("pull_dense", Phase.FORWARD, a2a, Traffic.DENSE, f"{weights}*s", "split_ids"),
            pool_own("pull_rows"),
            *dense_part(model, "(B/N)", "pool", "pull_dense"),
            collective("push_dense", Phase.BACKWARD, a2a, Traffic.DENSE, f"{weights}*s", "dense_backward"),
            scatter_own(),
            collective("push_keys", Phase.BACKWARD, a2a, Traffic.IDS, "u*k", "scatter_grad"),
            collective("push_rows", Phase.BACKWARD, a2a, Traffic.SPARSE, "u*W*s", "scatter_grad"),
            update_rows("u", "push_keys", "push_rows"),
            update_dense(f"({weights}/N)", "update_rows", "push_dense"),
        ),
        caveat="servers answer from GPU memory at once: a lower bound for servers on CPUs, which queue",
    )
