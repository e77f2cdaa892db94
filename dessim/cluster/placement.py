"""Placement: which free GPUs a job gets.

A policy is an order of the servers. A job takes the free GPUs of the first server, then those of the second, and so on
until it has enough, and its ranks occupy them in that order. GPUs of one server stay together under every policy,
because schedulers assign servers.

- `packed`: cluster order, which fills nodes, then leaves (groups, racks), then pods.
- `spread`: round-robin over the first-hop switches: the first server of each switch, then the second of each.
- `random`: shuffled by a seed.

Left out: choosing among gaps (best fit), and moving a running job.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dessim.cluster.graph import Cluster
from dessim.cluster.links import IntArray
from dessim.errors import CapacityError

POLICIES = ("packed", "spread", "random")


def place(cluster: Cluster, free: IntArray, n: int, policy: str, seed: int = 0) -> IntArray | None:
    """Return the GPUs of a job of `n` ranks, in rank order, chosen from the ids `free`; None if those are too few."""
    if len(free) < n:
        return None
    position = np.argsort(_order(cluster, policy, seed))
    ordered = np.sort(free)
    ordered = ordered[np.argsort(position[cluster.node_of(ordered)], kind="stable")]
    return ordered[:n]


def gpu_of_each_rank(cluster: Cluster, n: int, gpus: Sequence[int] | None = None) -> IntArray:
    """Return the GPU of each of `n` ranks: `gpus`, or the first n.

    Raises CapacityError where the cluster is too small or `gpus` are not n different GPUs of it.
    """
    cluster.require(n)
    if gpus is None:
        return np.arange(n, dtype=np.int64)
    gpus_of_ranks = np.asarray(gpus, dtype=np.int64)
    if len(gpus_of_ranks) != n:
        raise CapacityError(f"{len(gpus_of_ranks)} GPUs are listed for {n} ranks; list one for each")
    ids, times = np.unique(gpus_of_ranks, return_counts=True)
    if (times > 1).any():
        raise CapacityError(f"GPU {ids[times > 1][0]} is listed twice; a GPU takes one rank")
    if ids[0] < 0 or ids[-1] >= cluster.n_gpus:
        wrong = ids[0] if ids[0] < 0 else ids[-1]
        raise CapacityError(f"GPU {wrong} is not one of cluster {cluster.name}, which has 0 to {cluster.n_gpus - 1}")
    return gpus_of_ranks


def _order(cluster: Cluster, policy: str, seed: int) -> IntArray:
    """The servers in the order of a policy, [n_nodes]."""
    nodes = np.arange(cluster.n_nodes)
    if policy == "packed":
        return nodes
    if policy == "random":
        return np.random.default_rng(seed).permutation(nodes)
    if policy != "spread":
        raise ValueError(f"no placement policy is called {policy!r}")
    _, switch = np.unique(first_hop(cluster), return_inverse=True)
    by_switch = np.argsort(switch, kind="stable")
    sizes = np.bincount(switch)
    place_at_switch = np.empty(len(nodes), dtype=np.int64)
    place_at_switch[by_switch] = nodes - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.lexsort((switch, place_at_switch))


def first_hop(cluster: Cluster) -> IntArray:
    """Return the switch (vertex id) to which the first NIC of each server is attached, [n_nodes]."""
    return cluster.switch_of_nic()[cluster.wiring.first_nic()]
