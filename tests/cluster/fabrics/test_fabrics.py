"""Each fabric against the textbook: sizes, degree, diameter, bisection, number of routes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import networkx as nx
import numpy as np
import pytest
from pydantic import ValidationError

from dessim.cluster import Cluster, check, describe
from dessim.cluster.check import route_problems
from dessim.cluster.fabrics import direct
from dessim.cluster.links import IntArray
from dessim.cluster.spec.topology_file import problems
from dessim.errors import ClusterError
from tests.cluster.fabric_examples import (
    RATE,
    SLOW,
    bed,
    dragonfly,
    dragonfly_plus,
    graph,
    hyperx,
    racks,
    rail_only,
    torus,
)
from tests.cluster.small_clusters import link


def between_switches(cluster: Cluster) -> nx.DiGraph:
    """The graph of the switches, without servers."""
    whole = cluster.graph()
    return whole.subgraph([v for v, kind in whole.nodes(data="kind") if kind in ("router", "leaf", "spine", "switch")])


def number_of_routes(cluster: Cluster, src: int, dst: int) -> int:
    """The number of alternatives that the fabric offers to a flow between two NICs."""
    offered = []

    def pick(rows: IntArray, k: int, static: IntArray) -> IntArray | None:
        if len(rows):
            assert ((static >= 0) & (static < k)).all()
            offered.append(k)
        return None

    cluster.fabric.segments(np.array([src]), np.array([dst]), pick)
    assert len(offered) <= 1
    return offered[0] if offered else 1


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
    whole = racks(4, 2, 3, **rails)
    node = {"gpus": 3, "nics": 3, "nvlink": SLOW}
    trays = bed(8, node, **rails, uplink=SLOW)
    assert check(whole) == []
    kinds = ("nic_up", "leaf_up", "leaf_down", "nic_down")
    for kind in kinds:
        assert len(whole.links.of_kind(kind)) == len(trays.links.of_kind(kind))
    assert describe(whole)["bisection_GBps"] == describe(trays)["bisection_GBps"]
    assert describe(whole)["switches"] == {"leaf": 6, "spine": 2}
    # GPU 4 is on rail 1 of tray 1. It reaches rail 1 of another rack without NVLink, and rail 2 through GPU 5.
    same_rail, other_rail = whole.routes([4], [6 + 1]), whole.routes([4], [6 + 2])
    assert [whole.links.name(int(i)) for i in same_rail.link] == ["gpu4 -> leaf1", "leaf1 -> gpu7"]
    assert [whole.links.name(int(i)) for i in other_rail.link] == [
        "gpu4 -> node0/nvswitch",
        "node0/nvswitch -> gpu5",
        "gpu5 -> leaf2",
        "leaf2 -> gpu8",
    ]


def grid_graph(rows: int, columns: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A torus as lists of switches and cables."""
    names = {(x, y): f"s{x}.{y}" for x, y in product(range(rows), range(columns))}
    right = [(names[x, y], names[x, (y + 1) % columns]) for x, y in names]
    below = [(names[x, y], names[(x + 1) % rows, y]) for x, y in names]
    return dict.fromkeys(names.values(), 1), right + below


def test_graph_offers_exactly_the_shortest_routes() -> None:
    nodes, links = grid_graph(4, 5)
    cluster = graph(nodes, links)
    plain = nx.Graph(links)
    names = list(nodes)
    assert check(cluster) == []
    assert describe(cluster)["bisection_GBps"] == 2 * 5 * 10
    for dst in range(1, 20):
        expected = {tuple(path) for path in nx.all_shortest_paths(plain, names[0], names[dst])}
        offered = set()
        for number in range(len(expected)):
            only = np.array([number])
            [segment] = cluster.fabric.segments(np.array([0]), np.array([dst]), lambda rows, k, s, only=only: only)
            at = [int(v) - cluster.links.layers[1].first for v in cluster.links.dst[segment.links[0, 0]]]
            offered.add((names[0], *(names[v] for v in at)))
        assert offered == expected
        assert number_of_routes(cluster, 0, dst) == len(expected)


def test_graph_from_graphml(tmp_path: Any) -> None:
    text = """<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
    <key id="n" for="node" attr.name="nodes" attr.type="int"/>
    <key id="r" for="edge" attr.name="rate" attr.type="string"/>
    <graph edgedefault="undirected">
      <node id="a"><data key="n">2</data></node><node id="b"/><node id="c"><data key="n">1</data></node>
      <edge source="a" target="b"><data key="r">20 GB/s</data></edge>
      <edge source="b" target="c"/><edge source="c" target="b"/>
    </graph></graphml>"""
    (tmp_path / "room.graphml").write_text(text)
    toml = """
gpu = "h100-sxm"
transport = "ideal"
node = {count = 3, gpus = 1, nics = 1, nic = "connectx-7"}
fabric = {kind = "graph", cable = "infiniband-hdr", graphml = "room.graphml"}
"""
    from dessim.cluster import load_cluster

    path = tmp_path / "room.toml"
    path.write_text(toml)
    cluster = load_cluster(path)
    assert check(cluster) == []
    links = cluster.links
    rates = {links.name(i): links.capacity[i] / 0.96 / 1e9 for i in links.of_kind("cable").tolist()}
    assert rates == pytest.approx({"a -> b": 20, "b -> a": 20, "b -> c": 50, "c -> b": 50})
    slower = cluster.with_links([("b <-> c", 0.5)]).links.capacity / links.capacity
    assert sorted(links.name(int(i)) for i in np.flatnonzero(slower < 1)) == ["b -> c", "c -> b"]
    for wrong, words in [
        (text.replace("undirected", "directed"), "its edges are directed"),
        (text.replace(">2<", ">-2<"), "nodes of 'a' must be a whole number >= 0, not -2"),
        (text.replace("20 GB/s", "20"), "has no unit"),
        ("<graph", "not GraphML"),
        (text.replace(">2<", ">1<"), "its switches hold 2 nodes, but node.count is 3"),
    ]:
        (tmp_path / "room.graphml").write_text(wrong)
        with pytest.raises(ClusterError, match=r"^[^\n]*$") as caught:
            load_cluster(path)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bed(17, kind="torus", size=[4, 4], cable=SLOW), "node.count = 17 is more than its 16 places"),
        (
            lambda: bed(4, kind="torus", size=[4, 1], cable=SLOW),
            "fabric.size.1: Input should be greater than or equal to 2",
        ),
        (lambda: hyperx([4, 4], [1], 1), "cables has 1 numbers, size has 2"),
        (lambda: dragonfly(2, 1, 1, 4), "a group's 2 global links reach 2 others at most"),
        (lambda: dragonfly(2, 1, 3, 3), "globals_per_router = 3 is more than the 2 other groups"),
        (
            lambda: racks(2, 4, 1, kind="torus", size=[2, 2]),
            "fabric.scale_out.kind: must be one of leaf_spine, rail_optimised, fat_tree",
        ),
        (
            lambda: bed(2, kind="nvlink_domain", trays_per_node=1, scale_out={}),
            "fabric.scale_out.kind: must be one of leaf_spine",
        ),
        (lambda: rail_only(4, 2, uplink=SLOW), "need nodes_per_leaf, spines_per_rail and uplink together"),
        (lambda: bed(2, kind="graph", cable=SLOW), "write nodes and links, or graphml"),
        (lambda: graph({"a": 1, "b": 1}, [("a", "c"), ("c", "a")]), "'c' and 'a' are joined twice"),
        (lambda: graph({"a": 1}, [("a", "a")]), "a link joins 'a' to itself"),
        (lambda: graph({"gpu0": 1, "b": 1}, [("gpu0", "b")]), "a switch cannot be called 'gpu0'"),
        (lambda: graph({"a": 1, "b": 1}, []), "there is no route from switch 'a' to switch 'b'"),
    ],
)
def test_impossible_fabrics_are_refused(make: Callable[[], Cluster], words: str) -> None:
    with pytest.raises((ValidationError, ClusterError)) as caught:
        make()
    error = caught.value
    message = problems(error) if isinstance(error, ValidationError) else str(error)
    assert words in message and "\n" not in message


SMALL = {
    "torus": lambda **more: torus(4, 4, **more),
    "dragonfly": lambda **more: dragonfly(4, 2, 1, 3, **more),
    "dragonfly by Valiant": lambda **more: dragonfly(2, 1, 2, 5, valiant=True, **more),
    "dragonfly_plus": lambda **more: dragonfly_plus(2, 2, 2, 1, 3, **more),
    "dragonfly_plus by Valiant": lambda **more: dragonfly_plus(2, 2, 2, 2, 5, valiant=True, **more),
    "hyperx": lambda **more: hyperx([3, 3], [1, 1], 2, **more),
    "rail_only": lambda **more: rail_only(6, 2, nodes_per_leaf=2, spines_per_rail=2, uplink=SLOW, **more),
    "nvlink_domain": lambda **more: racks(4, 2, 2, kind="rail_optimised", nodes_per_pod=2, spines=2, **more),
    "graph": lambda **more: graph(*grid_graph(3, 4), **more),
}


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("routing", ["split", "static", "ecmp", "adaptive"])
def test_every_policy_routes_every_fabric(name: str, routing: str) -> None:
    """Flows are conserved, take one route each unless split, and avoid a link that is down where they can."""
    cluster = SMALL[name](routing=routing)
    n = cluster.n_gpus
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    routes = cluster.routes(src, dst)
    assert route_problems(cluster, src, dst, routes) == []
    assert routing == "split" or (routes.weight == 1.0).all()
    split = SMALL[name](routing="split").routes(src, dst)
    thin = split.weight < 1 - 1e-9
    flow = split.flow[thin][0]
    broken = np.intersect1d(split.link[thin & (split.flow == flow)], routes.link[routes.flow == flow])[:1]
    assert len(broken)
    around = cluster.with_links([(broken, 0.0)]).routes(src[[flow]], dst[[flow]])
    assert not np.isin(broken, around.link).any()
    assert route_problems(cluster, src[[flow]], dst[[flow]], around) == []


@pytest.mark.parametrize(
    ("make", "ratio", "needs"),
    [
        # NICs are 100 times as fast as cables. The ratio is NICs over uplinks of a router, a leaf or a group.
        (lambda **more: torus(4, 4, **more), 100 / 4, ["a router needs 5 ports"]),
        (lambda **more: torus(4, 2, hosts_each=3, cables=2, **more), 300 / 6, ["a router needs 9 ports"]),
        (lambda **more: hyperx([4, 3], [1, 2], 2, **more), 200 / 7, ["a router needs 9 ports"]),
        (lambda **more: dragonfly(4, 2, 2, 9, **more), 800 / 8, ["a router needs 7 ports"]),
        (lambda **more: dragonfly(4, 4, 3, 4, **more), 1600 / 12, ["a router needs 10 ports"]),
        (
            lambda **more: dragonfly_plus(2, 3, 2, 2, 5, **more),
            300 / 2,
            ["a leaf needs 5 ports", "a spine needs 4 ports"],
        ),
        (lambda **more: rail_only(6, 2, **more), 1, ["a leaf needs 6 ports"]),
        (
            lambda **more: rail_only(6, 2, nodes_per_leaf=2, spines_per_rail=1, uplink=SLOW, **more),
            2,
            ["a leaf needs 3 ports", "a spine needs 3 ports"],
        ),
        (
            lambda **more: racks(4, 2, 4, kind="leaf_spine", nodes_per_leaf=2, spines=2, **more),
            800 / 2,
            ["a leaf needs 10 ports", "a spine needs 4 ports"],
        ),
        (
            lambda **more: graph({"a": 3, "b": 1}, [("a", "b"), ("c", "a")], **more),
            300 / 2,
            ["a switch a needs 5 ports"],
        ),
    ],
)
def test_oversubscription_and_ports(make: Callable[..., Cluster], ratio: float, needs: list[str]) -> None:
    cluster = make(switch={"name": "tiny", "ports": 2, "latency": "0 s", "source": "test"})
    assert describe(cluster)["oversubscription"] == pytest.approx(ratio)
    assert cluster.fabric.port_problems() == [f"{need}, but tiny has 2" for need in needs]


LARGE = {
    "torus": lambda: torus(32, 32, 64),
    "dragonfly": lambda: dragonfly(32, 16, 16, 128),
    "dragonfly_plus": lambda: dragonfly_plus(16, 16, 16, 16, 256),
    "hyperx": lambda: hyperx([16, 16, 16], [1, 1, 1], 16),
}


@pytest.mark.parametrize("name", list(LARGE))
def test_routing_65536_hosts_is_fast(name: str) -> None:
    cluster = LARGE[name]()
    assert cluster.n_gpus == 65_536
    gpus = np.arange(65_536)
    dst = (gpus + 20_011) % 65_536
    began = time.perf_counter()
    routes = cluster.routes(gpus, dst)
    assert time.perf_counter() - began < 10.0
    assert route_problems(cluster, gpus, dst, routes) == []
