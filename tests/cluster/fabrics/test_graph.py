"""Graphs written switch by switch or read from GraphML: routes, rates, and mistakes."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from dessim.cluster import check, describe
from dessim.errors import ClusterError
from tests.cluster.fabric_examples import graph, grid_graph, number_of_routes


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
