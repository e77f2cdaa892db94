"""Placement: jobs get free GPUs, each once, in the order of a policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.placement import POLICIES, first_hop, gpu_of_each_rank, place
from dessim.errors import CapacityError
from tests.cluster.small_clusters import clusters

LEAVES = load_cluster("a100-8x_leafspine_16")  # 16 servers of 8 GPUs, two per leaf


def all_gpus(cluster: Cluster) -> np.ndarray:
    return np.arange(cluster.n_gpus)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.sampled_from(POLICIES), st.data())
def test_a_job_gets_free_gpus_each_once_server_by_server(cluster: Cluster, policy: str, data: st.DataObject) -> None:
    free = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=cluster.n_gpus, max_size=cluster.n_gpus)))
    n = data.draw(st.integers(1, cluster.n_gpus))
    gpus = place(cluster, free, n, policy, seed=3)
    if len(free) < n:
        assert gpus is None
        return
    assert gpus is not None and len(set(gpus.tolist())) == len(gpus) == n
    assert set(gpus.tolist()) <= set(free.tolist())
    nodes = cluster.node_of(gpus)
    # Ranks on a server are consecutive, and only the last server may keep free GPUs.
    assert np.count_nonzero(np.diff(nodes)) == len(set(nodes.tolist())) - 1
    all_but_last = nodes[nodes != nodes[-1]]
    assert len(all_but_last) == np.isin(cluster.node_of(free), all_but_last).sum()
    assert place(cluster, free, n, policy, seed=3).tolist() == gpus.tolist()


def test_packed_fills_servers_and_leaves_in_order() -> None:
    assert place(LEAVES, all_gpus(LEAVES), 20, "packed").tolist() == list(range(20))
    free = np.setdiff1d(all_gpus(LEAVES), [0, 1, 9])
    assert place(LEAVES, free, 8, "packed").tolist() == [2, 3, 4, 5, 6, 7, 8, 10]


@settings(max_examples=40, deadline=None)
@given(clusters(), st.data())
def test_spread_distributes_servers_evenly_over_switches(cluster: Cluster, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, cluster.n_nodes))
    gpus = place(cluster, all_gpus(cluster), n * cluster.node.gpus, "spread")
    servers = np.unique(cluster.node_of(gpus))
    switches, room = np.unique(first_hop(cluster), return_counts=True)
    servers_on = {s: int((first_hop(cluster)[servers] == s).sum()) for s in switches.tolist()}
    for switch, available in zip(switches.tolist(), room.tolist(), strict=True):
        # No switch has two servers more than another that still has free ones.
        assert servers_on[switch] == available or servers_on[switch] >= max(servers_on.values()) - 1


def test_spread_is_round_robin_over_the_leaves() -> None:
    gpus = place(LEAVES, all_gpus(LEAVES), 24, "spread")
    assert LEAVES.node_of(gpus[::8]).tolist() == [0, 2, 4]


def test_random_depends_on_the_seed_only() -> None:
    drawn = [tuple(place(LEAVES, all_gpus(LEAVES), 64, "random", seed).tolist()) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ValueError, match="no placement policy is called 'dense'"):
        place(LEAVES, all_gpus(LEAVES), 8, "dense")


def test_each_rank_gets_a_different_gpu_of_the_cluster() -> None:
    assert gpu_of_each_rank(LEAVES, 3).tolist() == [0, 1, 2] and gpu_of_each_rank(LEAVES, 2, [9, 4]).tolist() == [9, 4]
    for wrong, line in (
        ([1, 1], "GPU 1 is listed twice"),
        ([1, 128], "GPU 128 is not one"),
        ([-1, 2], "GPU -1 is not"),
    ):
        with pytest.raises(CapacityError, match=line):
            gpu_of_each_rank(LEAVES, 2, wrong)
