"""Placement: which free GPUs a job gets.

A policy is an order of the servers; a job takes the free GPUs of the first, then of the second, and so on, until it has
enough, and its ranks sit on them in that order. GPUs of one server stay together under every policy, as schedulers hand
out servers.

- `packed`: in the order of the cluster, which fills nodes, then leaves (groups, racks), then pods.
- `spread`: dealt round-robin over the first-hop switches: the first server of each, then the second of each.
- `random`: shuffled by a seed.

Left out: a choice among gaps (best fit), and moving a job that runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dessim.cluster.graph import Cluster
from dessim.cluster.links import IntArray
from dessim.errors import CapacityError

POLICIES = ("packed", "spread", "random")


def place(cluster: Cluster, free: IntArray, n: int, policy: str, seed: int = 0) -> IntArray | None:
    """The GPUs of a job of `n` ranks, in rank order, out of the `free` ones (ids); None where those are too few."""
    if len(free) < n:
        return None
    position = np.argsort(_order(cluster, policy, seed))
    ordered = np.sort(free)
    ordered = ordered[np.argsort(position[cluster.node_of(ordered)], kind="stable")]
    return ordered[:n]


def seated(cluster: Cluster, n: int, gpus: Sequence[int] | None = None) -> IntArray:
    """The GPU of each of `n` ranks: the first n, or `gpus`. Raises CapacityError where those are no n GPUs of it."""
    cluster.require(n)
    if gpus is None:
        return np.arange(n, dtype=np.int64)
    seats = np.asarray(gpus, dtype=np.int64)
    if len(seats) != n:
        raise CapacityError(f"{len(seats)} GPUs are listed for {n} ranks; list one for each")
    ids, times = np.unique(seats, return_counts=True)
    if (times > 1).any():
        raise CapacityError(f"GPU {ids[times > 1][0]} is listed twice; a GPU takes one rank")
    if ids[0] < 0 or ids[-1] >= cluster.n_gpus:
        wrong = ids[0] if ids[0] < 0 else ids[-1]
        raise CapacityError(f"GPU {wrong} is not one of cluster {cluster.name}, which has 0 to {cluster.n_gpus - 1}")
    return seats


def _order(cluster: Cluster, policy: str, seed: int) -> IntArray:
    """The servers in the order of a policy."""
    nodes = np.arange(cluster.n_nodes)
    if policy == "packed":
        return nodes
    if policy == "random":
        return np.random.default_rng(seed).permutation(nodes)
    if policy != "spread":
        raise ValueError(f"no placement policy is called {policy!r}")
    switch = first_hop(cluster)
    _, dealt = np.unique(switch, return_inverse=True)
    by_switch = np.argsort(dealt, kind="stable")
    sizes = np.bincount(dealt)
    turn = np.empty(len(nodes), dtype=np.int64)  # which of its switch's servers each is
    turn[by_switch] = nodes - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.lexsort((dealt, turn))


def first_hop(cluster: Cluster) -> IntArray:
    """The switch (vertex id) that the first NIC of each server hangs on, [n_nodes]."""
    return cluster.links.dst[cluster.wiring.nic_up + cluster.wiring.first_nic()]
