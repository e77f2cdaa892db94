"""Closed forms of bisection bandwidth and oversubscription, against maximum flow on the graph."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings

from dessim.cluster import Cluster, describe
from tests.cluster.small_clusters import build, clusters, hosts, link


def maximum_flow(cluster: Cluster) -> float:
    """Maximum flow from the GPUs of the first half of the nodes to all others, by networkx."""
    graph, half = cluster.graph(), int((cluster.node_of(np.arange(cluster.n_gpus)) < cluster.n_nodes // 2).sum())
    for gpu in range(cluster.n_gpus):
        edge = ("source", f"gpu{gpu}") if gpu < half else (f"gpu{gpu}", "target")
        graph.add_edge(*edge)  # no capacity attribute: unlimited
    return float(nx.maximum_flow_value(graph, "source", "target")) if half else 0.0


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_bisection_is_the_maximum_flow_between_the_halves(cluster: Cluster) -> None:
    expected = maximum_flow(cluster) / 1e9
    assert describe(cluster)["bisection_GBps"] == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("spines", "bisection", "ratio"), [(16, 6400, 1), (4, 1600, 4), (32, 6400, 0.5)])
def test_textbook_two_level_tree(spines: int, bisection: float, ratio: float) -> None:
    data = hosts(kind="leaf_spine", nodes_per_leaf=16, spines=spines, uplink=link())
    data["node"]["count"] = 256
    facts = describe(build(data))
    assert (facts["bisection_GBps"], facts["oversubscription"]) == (bisection, ratio)
