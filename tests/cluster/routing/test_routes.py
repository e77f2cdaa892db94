"""Routes: real paths whose shares add up, with the right hop counts and latencies."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, check, load_cluster
from dessim.cluster.check import route_problems
from dessim.cluster.routing.routes import Routes
from dessim.errors import ClusterError
from tests.cluster.small_clusters import build, clusters, hosts, link


def kinds_used(cluster: Cluster, src: int, dst: int) -> list[str]:
    routes = cluster.routes([src], [dst])
    return [cluster.links.kinds[k] for k in cluster.links.kind[routes.link]]


def assert_route_is_a_path(cluster: Cluster, graph: nx.DiGraph, src: int, dst: int) -> None:
    """A naive check: walk the graph, add up the shares, and compare the latency with the longest path."""
    routes = cluster.routes([src], [dst])
    used = nx.DiGraph()
    by_link = {data["link"]: (a, b, data["latency"]) for a, b, data in graph.edges(data=True)}
    for link_id, weight in zip(routes.link.tolist(), routes.weight.tolist(), strict=True):
        a, b, latency = by_link[link_id]
        assert 0 < weight <= 1
        already = used.edges[a, b]["weight"] if used.has_edge(a, b) else 0.0  # several alternatives may share a link
        used.add_edge(a, b, weight=weight + already, latency=latency)
    balance = {v: used.out_degree(v, "weight") - used.in_degree(v, "weight") for v in used}
    expected = {v: 0.0 for v in used} | {f"gpu{src}": 1.0, f"gpu{dst}": -1.0}
    assert balance == pytest.approx(expected, abs=1e-12)
    assert nx.is_weakly_connected(used)
    if cluster.kind.startswith("dragonfly") and cluster.fabric.shape.valiant:
        return  # Valiant alternatives may cross one another, and even visit a switch twice
    assert nx.is_directed_acyclic_graph(used)
    assert routes.latency[0] == pytest.approx(nx.dag_longest_path_length(used, weight="latency"), rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(clusters(), st.data())
def test_every_route_is_a_real_path_that_conserves_its_flow(cluster: Cluster, data: st.DataObject) -> None:
    problems = [p for p in check(cluster) if "ports" not in p]
    assert problems == []
    if cluster.n_gpus == 1:
        return
    graph = cluster.graph()
    src = data.draw(st.integers(0, cluster.n_gpus - 1))
    dst = data.draw(st.integers(0, cluster.n_gpus - 2))
    assert_route_is_a_path(cluster, graph, src, dst + (dst >= src))


@settings(max_examples=50, deadline=None)
@given(clusters())
def test_routing_many_flows_at_once_equals_routing_them_one_by_one(cluster: Cluster) -> None:
    n = cluster.n_gpus
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    together = cluster.routes(src, dst)
    assert np.all(np.diff(together.flow) >= 0)
    for i in range(0, len(src), max(1, len(src) // 20)):
        alone = cluster.routes(src[i : i + 1], dst[i : i + 1])
        of_flow = together.flow == i
        assert together.link[of_flow].tolist() == alone.link.tolist()
        assert together.weight[of_flow].tolist() == alone.weight.tolist()
        assert together.latency[i] == alone.latency[0]


def test_hosts_cross_two_links_on_one_switch_and_four_on_two_levels() -> None:
    switch = load_cluster("one-switch_16")
    assert kinds_used(switch, 0, 15) == ["nic_up", "nic_down"]
    bed = load_cluster("bench/two_level_1024")
    assert kinds_used(bed, 0, 15) == ["nic_up", "nic_down"]
    assert kinds_used(bed, 15, 16) == ["nic_up", *["leaf_up", "leaf_down"] * 16, "nic_down"]
    routes = bed.routes([0, 15], [15, 16])
    assert routes.latency == pytest.approx([2e-6, 4e-6])
    assert routes.weight[2:].tolist() == [1.0, *[1 / 16] * 32, 1.0]


def test_a_gpu_reaches_its_neighbour_over_nvlink() -> None:
    cluster = load_cluster("a100-8x_leafspine_16")
    assert kinds_used(cluster, 0, 7) == ["nvlink_up", "nvlink_down"]
    # All NICs of the next node are on the same leaf.
    assert kinds_used(cluster, 0, 15) == ["pcie_up", "nic_up", "nic_down", "pcie_down"]


def test_without_nvlink_neighbours_use_their_shared_nic_or_the_leaf() -> None:
    data = hosts()
    data["node"].update(gpus=4, nics=2, pcie=link("10 GB/s", "0.5 us"))
    cluster = build(data)
    assert kinds_used(cluster, 0, 1) == ["pcie_up", "pcie_down"]
    assert kinds_used(cluster, 0, 2) == ["pcie_up", "nic_up", "nic_down", "pcie_down"]


def test_rail_aware_routes_change_rail_before_leaving_the_node() -> None:
    cluster = load_cluster("h100-8x_rail_128")
    node = ["pcie_up", "nic_up"], ["nic_down", "pcie_down"]
    same_rail_same_pod = kinds_used(cluster, 3, 8 + 3)
    assert same_rail_same_pod == node[0] + node[1]
    other_rail = cluster.routes([3], [8 + 5])
    names = [cluster.links.name(int(link)) for link in other_rail.link]
    assert names == [
        "gpu3 -> node0/nvswitch",
        "node0/nvswitch -> gpu5",
        "gpu5 -> node0/nic5",
        "node0/nic5 -> leaf5",
        "leaf5 -> node1/nic5",
        "node1/nic5 -> gpu13",
    ]
    other_pod = kinds_used(cluster, 3, 32 * 8 + 3)
    assert other_pod == node[0] + ["leaf_up", "leaf_down"] * 16 + node[1]


def test_rails_that_are_not_rail_aware_cross_the_spines() -> None:
    data = hosts(kind="rail_optimised", nodes_per_pod=8, spines=2, uplink=link(), rail_aware=False)
    data["node"].update(gpus=2, nics=2, nvlink=link())
    assert kinds_used(build(data), 0, 3) == ["nic_up", *["leaf_up", "leaf_down"] * 2, "nic_down"]


def test_static_routing_gives_a_shift_no_shared_uplink() -> None:
    """D-mod-k on a full-bisection tree routes any shift without contention (Zahavi 2010)."""
    data = hosts(kind="leaf_spine", nodes_per_leaf=4, spines=4, uplink=link(), routing="static")
    data["node"]["count"] = 32
    cluster = build(data)
    gpus = np.arange(32)
    for shift in range(1, 32):
        routes = cluster.routes(gpus, (gpus + shift) % 32)
        assert np.bincount(routes.link).max() == 1


def test_routing_65536_hosts_gives_the_expected_entries() -> None:
    data = hosts(kind="leaf_spine", nodes_per_leaf=16, spines=16, uplink=link())
    data["node"]["count"] = 65_536
    cluster = build(data)
    gpus = np.arange(65_536)
    routes = cluster.routes(gpus, (gpus + 1) % 65_536)
    crossing = 65_536 // 16
    assert len(routes.link) == 2 * 65_536 + 32 * crossing
    assert np.bincount(routes.flow, routes.weight) == pytest.approx(np.where(gpus % 16 == 15, 4.0, 2.0))
    assert route_problems(cluster, gpus, (gpus + 1) % 65_536, routes) == []


def test_a_broken_route_is_detected() -> None:
    cluster = load_cluster("bench/two_level_1024")
    src, dst = np.array([0]), np.array([16])
    good = cluster.routes(src, dst)
    bad = Routes(good.flow[1:], good.link[1:], good.weight[1:], good.latency, good.copies[1:])
    assert route_problems(cluster, src, dst, good) == []
    assert route_problems(cluster, src, dst, bad)[0].startswith("the route from gpu0 to gpu16 gains ")


def test_impossible_flows_are_refused() -> None:
    cluster = load_cluster("one-switch_16")
    with pytest.raises(ValueError, match="itself"):
        cluster.routes([3], [3])
    with pytest.raises(ValueError, match=r"outside 0\.\.15"):
        cluster.routes([0], [16])
    with pytest.raises(ValueError, match="one length"):
        cluster.routes([0, 1], [2])
    assert len(cluster.routes([], []).flow) == 0


def test_gpus_are_assigned_to_nodes_in_order() -> None:
    assert load_cluster("h100-8x_rail_128").node_of([0, 7, 8, 1023]).tolist() == [0, 0, 1, 127]


class DirectRoutes:
    """A route provider that sends every flow over link 0."""

    def routes(
        self, src: np.ndarray, dst: np.ndarray, *, without_twins: bool = False, size: np.ndarray | None = None
    ) -> Routes:
        n = len(src)
        return Routes(np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n), np.zeros(n), np.ones(n))


def test_a_route_provider_replaces_the_routes_of_the_fabric() -> None:
    cluster = replace(load_cluster("one-switch_16"), route_provider=DirectRoutes())
    assert cluster.routes([0, 1], [2, 3]).link.tolist() == [0, 0]
    with pytest.raises(ClusterError, match="is down, and no route avoids it"):
        cluster.with_links([([0], 0.0)]).routes([0], [2])
