"""Each fabric against the textbook: sizes, degree, diameter, bisection, number of routes."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from dessim.cluster import Cluster, check, describe
from dessim.cluster.fabrics import direct
from dessim.cluster.links import IntArray
from tests.cluster.fabric_examples import (
    RATE,
    SLOW,
    bed,
    dragonfly,
    dragonfly_plus,
    hyperx,
    number_of_routes,
    racks,
    rail_only,
    torus,
)
from tests.cluster.small_clusters import link


def between_switches(cluster: Cluster) -> nx.DiGraph:
    """The graph of the switches, without servers."""
    graph = cluster.graph()
    return graph.subgraph([v for v, kind in graph.nodes(data="kind") if kind in ("router", "leaf", "spine", "switch")])


def degrees(cluster: Cluster) -> set[int]:
    return {degree for _, degree in between_switches(cluster).out_degree()}


def diameter(cluster: Cluster) -> int:
    return int(nx.diameter(between_switches(cluster)))


def bisections(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The bisection by maximum flow, and by cuts as for large clusters."""
    exact = describe(cluster)["bisection_GBps"]
    monkeypatch.setattr(direct, "EXACT_CABLES", 0)
    return [exact, describe(cluster)["bisection_GBps"]]


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (4, 4, 4), (6, 4, 2), (5, 5), (3, 5, 4)])
def test_torus(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = torus(*size)
    routers = math.prod(size)
    assert check(cluster) == []
    assert describe(cluster)["switches"] == {"router": routers}
    assert degrees(cluster) == {sum(2 if n > 2 else 1 for n in size)}
    assert diameter(cluster) == sum(n // 2 for n in size)
    # The farthest router is half a ring away in each dimension: even rings offer both directions, except rings of two.
    far = int(np.ravel_multi_index([n // 2 for n in size], size))
    assert number_of_routes(cluster, 0, far) == 2 ** sum(n % 2 == 0 and n > 2 for n in size)
    if size[0] % 2 == 0:
        # Dally and Towles 2004, section 5.2.2: 4 k**(n - 1) channels, half of them in each direction.
        assert bisections(cluster, monkeypatch) == [2 * routers / size[0] * RATE / 1e9] * 2


def test_torus_takes_the_shorter_direction_dimension_by_dimension() -> None:
    cluster = torus(5, 5)
    routes = cluster.routes([0], [5 * 4 + 2])
    names = [cluster.links.name(int(i)) for i in routes.link]
    assert names == ["gpu0 -> router0", "router0 -> router20", "router20 -> router21", "router21 -> router22",
                     "router22 -> gpu22"]  # fmt: skip


@pytest.mark.parametrize(("a", "p", "h"), [(4, 2, 2), (6, 3, 3), (3, 1, 2)])
def test_dragonfly_of_full_size(a: int, p: int, h: int, monkeypatch: pytest.MonkeyPatch) -> None:
    g = a * h + 1
    cluster = dragonfly(a, p, h, g, switch={"ports": p + a + h - 1, "latency": "0 s", "source": "test"})
    assert check(cluster) == []  # Kim et al. 2008: radix k = p + a + h - 1, N = a p (a h + 1)
    assert cluster.n_gpus == a * p * (a * h + 1)
    assert degrees(cluster) == {a + h - 1}
    assert diameter(cluster) == 3
    assert len(cluster.links.of_kind("global")) == g * (g - 1)
    joined = {(int(s) // a, int(d) // a) for s, d in zip(*ends(cluster, "global"), strict=True)}
    assert len(joined) == g * (g - 1)  # every group to every other
    assert number_of_routes(cluster, 0, cluster.n_gpus - 1) == 1
    assert number_of_routes(dragonfly(a, p, h, g, valiant=True), 0, cluster.n_gpus - 1) == g - 2
    exact, cut = bisections(cluster, monkeypatch)
    assert exact == cut


def ends(cluster: Cluster, kind: str) -> tuple[IntArray, IntArray]:
    """The switches that the links of a kind join, numbered within their layer."""
    links = cluster.links
    layer = links.layer("router") or links.layer("spine")
    assert layer is not None
    ids = links.of_kind(kind)
    return links.src[ids] - layer.first, links.dst[ids] - layer.first


@pytest.mark.parametrize(("a", "h", "g"), [(4, 2, 4), (6, 2, 4), (4, 2, 6)])
def test_dragonfly_of_an_even_number_of_groups(a: int, h: int, g: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, copies = dragonfly(a, 2, h, g), a * h // (g - 1)
    assert number_of_routes(cluster, 0, cluster.n_gpus - 1) == copies
    assert check(cluster) == []
    expected = min(copies * (g // 2) ** 2, a * 2 * g // 2 * 100) * RATE / 1e9
    assert bisections(cluster, monkeypatch) == pytest.approx([expected] * 2)


@pytest.mark.parametrize(("leaves", "p", "spines", "h"), [(2, 2, 2, 2), (4, 4, 4, 2)])
def test_dragonfly_plus(leaves: int, p: int, spines: int, h: int, monkeypatch: pytest.MonkeyPatch) -> None:
    g = spines * h + 1
    cluster = dragonfly_plus(leaves, p, spines, h, g)
    assert check(cluster) == []
    assert cluster.n_gpus == leaves * p * g  # Shpiner et al. 2017
    assert degrees(cluster) == {spines, leaves + h}
    net = between_switches(cluster)
    leaf = [v for v in net if v.startswith("leaf")]
    hops = nx.single_source_shortest_path_length(net, leaf[0])
    assert max(hops[v] for v in leaf) == 3  # leaf, spine, spine, leaf
    assert number_of_routes(cluster, 0, p) == spines  # in a group
    assert number_of_routes(cluster, 0, cluster.n_gpus - 1) == 1
    assert number_of_routes(dragonfly_plus(leaves, p, spines, h, g, valiant=True), 0, cluster.n_gpus - 1) == g - 2
    even = dragonfly_plus(leaves, p, spines, h, 4, local_link=link("100 GB/s", "0 s"))
    expected = spines * h // 3 * 2**2 * RATE / 1e9
    assert bisections(even, monkeypatch) == pytest.approx([expected] * 2)


@pytest.mark.parametrize(("size", "cables"), [([4, 4], [1, 1]), ([8, 4], [1, 2]), ([2, 3, 4], [1, 1, 1]), ([6], [2])])
def test_hyperx(size: list[int], cables: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = hyperx(size, cables, 2)
    routers, dims = math.prod(size), len(size)
    assert check(cluster) == []
    assert degrees(cluster) == {sum(n - 1 for n in size)}
    assert cluster.fabric.shape.ports == sum((n - 1) * k for n, k in zip(size, cables, strict=True))
    assert diameter(cluster) == dims
    assert number_of_routes(cluster, 0, 2 * routers - 1) == math.factorial(dims)
    net = between_switches(cluster)
    shortest = list(nx.all_shortest_paths(net, "router0", f"router{routers - 1}"))
    assert len(shortest) == math.factorial(dims)
    # Ahn et al. 2009: K S**2 / 4 cables for each line of the dimension that is cut in half.
    expected = cables[0] * size[0] ** 2 / 4 * routers / size[0] * RATE / 1e9
    assert bisections(cluster, monkeypatch) == pytest.approx([expected] * 2)


@pytest.mark.parametrize(("nodes", "gpus"), [(4, 2), (8, 4)])
def test_rail_only(nodes: int, gpus: int) -> None:
    cluster = rail_only(nodes, gpus)
    assert check(cluster) == []
    assert describe(cluster)["switches"] == {"leaf": gpus}
    assert between_switches(cluster).number_of_edges() == 0
    assert describe(cluster)["bisection_GBps"] == nodes // 2 * gpus * 10
    same, other = cluster.routes([0], [gpus]), cluster.routes([0], [gpus + 1])
    kinds = [[cluster.links.kinds[k] for k in cluster.links.kind[r.link]] for r in (same, other)]
    assert kinds == [["nic_up", "nic_down"], ["nvlink_up", "nvlink_down", "nic_up", "nic_down"]]


def test_rails_of_leaves_and_spines_stay_apart() -> None:
    cluster = rail_only(8, 2, nodes_per_leaf=2, spines_per_rail=2, uplink=SLOW)
    assert check(cluster) == []
    assert describe(cluster)["switches"] == {"leaf": 8, "spine": 4}
    assert nx.number_weakly_connected_components(between_switches(cluster)) == 2
    assert number_of_routes(cluster, 0, 15 - 1) == 2
    with pytest.raises(ValueError, match="no route between leaves of different planes"):
        number_of_routes(cluster, 0, 1)


def test_rail_only_needs_nvlink_and_does_not_sum() -> None:
    from dessim.cluster.tree_routes import sums_in_fabric

    with pytest.raises(ValueError, match="rails are joined by NVLink only"):
        bed(4, {"gpus": 2, "nics": 2}, kind="rail_only")
    sums = {"ports": 64, "latency": "0 s", "source": "test", "reduces": True}
    assert not sums_in_fabric(rail_only(4, 2, switch=sums))
    assert not sums_in_fabric(torus(4, 4, switch=sums))


def test_racks_of_trays_are_joined_as_servers_are() -> None:
    """The switches and cables are those of servers the size of a tray; NVLink spans the rack."""
    rails = {"kind": "rail_optimised", "nodes_per_pod": 4, "spines": 2}
    domains = racks(4, 2, 3, **rails)
    node = {"gpus": 3, "nics": 3, "nvlink": SLOW}
    trays = bed(8, node, **rails, uplink=SLOW)
    assert check(domains) == []
    kinds = ("nic_up", "leaf_up", "leaf_down", "nic_down")
    for kind in kinds:
        assert len(domains.links.of_kind(kind)) == len(trays.links.of_kind(kind))
    assert describe(domains)["bisection_GBps"] == describe(trays)["bisection_GBps"]
    assert describe(domains)["switches"] == {"leaf": 6, "spine": 2}
    # GPU 4 is on rail 1 of tray 1. It reaches rail 1 of another rack without NVLink, and rail 2 through GPU 5.
    same_rail, other_rail = domains.routes([4], [6 + 1]), domains.routes([4], [6 + 2])
    assert [domains.links.name(int(i)) for i in same_rail.link] == ["gpu4 -> leaf1", "leaf1 -> gpu7"]
    assert [domains.links.name(int(i)) for i in other_rail.link] == [
        "gpu4 -> node0/nvswitch",
        "node0/nvswitch -> gpu5",
        "gpu5 -> leaf2",
        "leaf2 -> gpu8",
    ]
