"""Routing policies: split, static, hashed, adaptive; and hash collisions against balls in bins."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.check import route_problems
from dessim.cluster.routing.policy import Routing
from dessim.cluster.routing.trees import Trees
from dessim.cluster.tree_routes import tree_routes
from dessim.errors import ClusterError
from tests.cluster.small_clusters import build, clusters, hosts, link, tiered_clusters

HOSTS = np.arange(1024)
POLICIES = ("split", "static", "ecmp", "adaptive")


def routings() -> st.SearchStrategy[Routing]:
    any_policy = st.builds(Routing, st.sampled_from(POLICIES), st.integers(0, 99))
    return any_policy | st.builds(Routing, st.sampled_from(["ecmp", "adaptive"]), st.integers(0, 99), st.integers(2, 5))


@st.composite
def routed(draw: st.DrawFn, kinds: st.SearchStrategy[Cluster]) -> Cluster:
    """A cluster under any policy, with some links of its fabric down and some slower."""
    cluster = replace(draw(kinds), routing=draw(routings()))
    built = cluster.wiring.first_server_link
    ids = st.lists(st.integers(0, built - 1), max_size=4) if built else st.just([])
    return cluster.with_links([(draw(ids), 0.5), (draw(ids), 0.0)])


def bed(routing: Routing) -> Cluster:
    """1,024 hosts, 16 on each leaf, 16 spines."""
    return replace(load_cluster("bench/two_level_1024"), routing=routing)


def loads(cluster: Cluster, src: np.ndarray, dst: np.ndarray, kind: str) -> np.ndarray:
    routes = cluster.routes(src, dst)
    return np.bincount(routes.link, routes.weight, minlength=len(cluster.links))[cluster.links.of_kind(kind)]


def fabric_graph(cluster: Cluster, *, up_only: bool) -> nx.DiGraph:
    graph, links = nx.DiGraph(), cluster.links
    for link_id in range(cluster.wiring.first_server_link):
        if links.capacity[link_id] > 0 or not up_only:
            graph.add_edge(int(links.src[link_id]), int(links.dst[link_id]), link=link_id)
    return graph


def shortest_paths(graph: nx.DiGraph, a: int, b: int) -> list[list[int]]:
    """All shortest paths from vertex `a` to vertex `b`, as links; empty if there is none."""
    if a == b:
        return [[]]
    if a not in graph or b not in graph or not nx.has_path(graph, a, b):
        return []
    return [[graph[u][v]["link"] for u, v in nx.utils.pairwise(p)] for p in nx.all_shortest_paths(graph, a, b)]


@settings(max_examples=100, deadline=None)
@given(routed(clusters()), st.integers(0, 2**32 - 1))
def test_every_policy_keeps_a_flow_whole_and_off_links_that_are_down(cluster: Cluster, seed: int) -> None:
    n = cluster.n_gpus
    if n < 2:
        return
    rng = np.random.default_rng(seed)
    src = rng.integers(n, size=8)
    dst = (src + rng.integers(1, n, size=8)) % n
    try:
        routes = cluster.routes(src, dst)
    except ClusterError:
        assert cluster.links.any_down
        return
    assert route_problems(cluster, src, dst, routes) == []
    assert (cluster.links.capacity[routes.link] > 0).all()
    assert np.all(np.diff(routes.flow) >= 0)


@settings(max_examples=100, deadline=None)
@given(routed(tiered_clusters()), st.integers(0, 2**32 - 1))
def test_every_policy_takes_shortest_paths_that_are_up(cluster: Cluster, seed: int) -> None:
    """Against networkx: paths without links that are down, as long as the shortest path with them."""
    n, links, routing = cluster.n_gpus, cluster.links, cluster.routing
    if n < 2:
        return
    rng = np.random.default_rng(seed)
    src = rng.integers(n, size=8)
    dst = (src + rng.integers(1, n, size=8)) % n
    all_links = fabric_graph(cluster, up_only=False)
    links_up = fabric_graph(cluster, up_only=True)
    expected = []
    # A copy without links that are down shows where a flow enters and leaves the fabric.
    whole_links = replace(links, capacity=np.where(links.capacity == 0, 1e9, links.capacity))
    undisturbed = replace(cluster, links=whole_links, routing=Routing("static"))
    for a, b in zip(src.tolist(), dst.tolist(), strict=True):
        inside = [i for i in undisturbed.routes([a], [b]).link.tolist() if i < cluster.wiring.first_server_link]
        if not inside:
            expected.append([[]])
            continue
        ends = int(links.src[inside[0]]), int(links.dst[inside[-1]])
        hops = len(shortest_paths(all_links, *ends)[0])
        expected.append([path for path in shortest_paths(links_up, *ends) if len(path) == hops])
    if not all(expected):
        with pytest.raises(ClusterError, match=r"gpu\d+ cannot reach gpu\d+: \S+ -> \S+ is down"):
            cluster.routes(src, dst)
        return
    routes = cluster.routes(src, dst, size=rng.random(8))
    assert route_problems(cluster, src, dst, routes) == []
    for flow, paths in enumerate(expected):
        in_fabric = (routes.flow == flow) & (routes.link < cluster.wiring.first_server_link)
        share = np.bincount(routes.link[in_fabric], routes.weight[in_fabric], minlength=len(links))
        taken = np.flatnonzero(share)
        if routing.policy == "split":
            even = np.bincount([i for path in paths for i in path] or [0], minlength=len(links)) / len(paths)
            assert share == pytest.approx(even if paths != [[]] else 0 * even, abs=1e-12)
        elif routing.flows_per_pair == 1:
            assert taken.tolist() in [sorted(path) for path in paths]
        else:
            assert set(taken.tolist()) <= {i for path in paths for i in path}
            n_flows = share * routing.flows_per_pair
            assert n_flows == pytest.approx(np.round(n_flows), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(tiered_clusters(), st.integers(0, 2**32 - 1))
def test_adaptive_flows_choose_the_route_whose_busiest_link_is_least_loaded(cluster: Cluster, seed: int) -> None:
    """Replayed flow by flow with networkx: no shortest path would have been better at that moment."""
    n, links = cluster.n_gpus, cluster.links
    if n < 2:
        return
    cluster, rng = replace(cluster, routing=Routing("adaptive")), np.random.default_rng(seed)
    src = rng.integers(n, size=12)
    dst, size = (src + rng.integers(1, n, size=12)) % n, rng.integers(1, 4, size=12).astype(float)
    routes, graph, load = cluster.routes(src, dst, size=size), fabric_graph(cluster, up_only=True), np.zeros(len(links))
    for flow in range(12):
        route = routes.link[(routes.flow == flow) & (routes.link < cluster.wiring.first_server_link)]
        if not len(route):
            continue
        others = shortest_paths(graph, int(links.src[route[0]]), int(links.dst[route[-1]]))
        busiest = [(load[other] + size[flow] / links.capacity[other]).max() for other in others]
        load[route] += size[flow] / links.capacity[route]
        assert load[route].max() == pytest.approx(min(busiest), rel=1e-12)


def test_adaptive_shifts_do_not_collide_and_hashed_ones_do() -> None:
    for shift in (16, 515):
        dst = (HOSTS + shift) % 1024
        assert loads(bed(Routing("adaptive")), HOSTS, dst, "leaf_down").max() == 1
        assert loads(bed(Routing("static")), HOSTS, dst, "leaf_down").max() == 1
        assert loads(bed(Routing("ecmp")), HOSTS, dst, "leaf_down").max() >= 3


def test_adaptive_flows_on_an_idle_network_take_the_static_route() -> None:
    for dst in (16, 21, 1023):
        free, static = (bed(Routing(policy)).routes([0], [dst]).link for policy in ("adaptive", "static"))
        assert free.tolist() == static.tolist()


def test_adaptive_flows_of_a_pair_count_their_share_of_its_bytes() -> None:
    """Halves of 4, 2 and 2 bytes over four spines: the first two fill a spine each, the others share the other two."""
    data = hosts(kind="leaf_spine", nodes_per_leaf=4, spines=4, uplink=link(), routing="adaptive", flows_per_pair=2)
    cluster, size = build(data), np.array([4.0, 2.0, 2.0])
    routes = cluster.routes([0, 1, 2], [5, 6, 4], size=size)
    load = np.bincount(routes.link, routes.weight * size[routes.flow], minlength=len(cluster.links))
    assert load[cluster.links.of_kind("leaf_up")][:4].tolist() == [2, 2, 2, 2]


def test_gpus_that_share_a_nic_are_hashed_separately() -> None:
    data = hosts(kind="leaf_spine", nodes_per_leaf=1, spines=64, uplink=link(), routing="ecmp")
    data["node"].update(gpus=8, nics=1, pcie=link())
    cluster = build(data)
    src, dst = np.divmod(np.arange(64), 8)
    assert (
        np.count_nonzero(loads(cluster, src, dst + 8, "leaf_up")) > 32
    )  # with a hash of NICs only, all would take one route


def test_flows_of_a_pair_share_its_bytes() -> None:
    cluster = bed(Routing("ecmp", flows_per_pair=8))
    assert loads(cluster, np.array([0]), np.array([512]), "leaf_up").sum() == pytest.approx(1)
    assert 1 < np.count_nonzero(loads(cluster, np.array([0]), np.array([512]), "leaf_up")) <= 8
    same_leaf = cluster.routes([0], [1])
    assert same_leaf.weight.tolist() == [1, 1]
    assert cluster.routes([0], [512]).latency == pytest.approx([4e-6])


@pytest.mark.parametrize("routing", ["ecmp", "adaptive"])
def test_trees_follow_destination_based_routes(routing: str) -> None:
    """A summing tree has one root, so no leaf may choose its uplink by hash."""
    reduces = {"ports": 64, "latency": "0 us", "source": "test", "reduces": True}
    data = hosts(kind="leaf_spine", nodes_per_leaf=2, spines=3, uplink=link(), switch=reduces, routing=routing)
    cluster = build(data)
    everyone = Trees.of(np.arange(8)[None, :], np.arange(8)[None, :])
    by_destination = tree_routes(replace(cluster, routing=Routing("static")), everyone)
    assert tree_routes(cluster, everyone).link.tolist() == by_destination.link.tolist()


def test_hashing_65536_hosts_is_fast() -> None:
    cluster = replace(load_cluster("bench/three_tier_65536"), routing=Routing("ecmp", 1))
    gpus = np.arange(65_536)
    began = time.perf_counter()
    routes = cluster.routes(gpus, (gpus + 32_768) % 65_536)
    assert time.perf_counter() - began < 1.0
    assert len(routes.link) == 6 * 65_536


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="no routing policy is called 'random'"):
        Routing("random")
    with pytest.raises(ValueError, match="split routing takes the same routes"):
        Routing("split", flows_per_pair=2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"routing": "random"}, "'split', 'static', 'ecmp' or 'adaptive'"),
        (
            {"routing": "static", "routing_seed": 3},
            'routing_seed is for routing = "ecmp", not "static"',
        ),
        ({"flows_per_pair": 2}, 'flows_per_pair is for routing = "ecmp" or "adaptive", not "split"'),
        ({"routing": "ecmp", "flows_per_pair": 0}, "greater than or equal to 1"),
    ],
)
def test_keys_that_do_not_apply_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(hosts(kind="leaf_spine", nodes_per_leaf=2, spines=3, uplink=link(), **keys))
