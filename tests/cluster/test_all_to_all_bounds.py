"""A uniform all_to_all takes exactly as long as its busiest links need: the textbook's channel load, in seconds.

With equal messages of s bytes between all pairs and split routing, all links of a class carry the same load, and the
class with the most load for its rate is full until the end (Dally and Towles, "Principles and Practices of
Interconnection Networks", 2004, section 3.3: throughput is channel bandwidth over the largest channel load).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from dessim.cluster import Cluster
from dessim.commands.collective import run_collective
from dessim.sim.fluid.flows import route_flows
from dessim.trace.schema import Collective
from tests.cluster.fabric_examples import (
    RATE,
    SLOW,
    SMALL,
    bed,
    dragonfly,
    dragonfly_plus,
    graph,
    grid_graph,
    hyperx,
    racks,
    rail_only,
    torus,
)
from tests.cluster.small_clusters import link

S = 1e6
"""Bytes from each GPU to each of the others."""


def measured(cluster: Cluster) -> float:
    n = cluster.n_gpus
    return run_collective(cluster, Collective.ALL_TO_ALL, n, S * n, "direct").time_s


@pytest.mark.parametrize(("size", "p"), [((8, 8), 1), ((4, 4, 4), 2), ((6, 3), 1), ((5, 7), 1), ((8, 2), 2)])
def test_torus(size: tuple[int, ...], p: int) -> None:
    """Dally and Towles 2004, section 3.3: a link of a ring of k carries k / 8 of what a router sends if k is even,
    because the mean route has k / 4 hops and a router has 2 links; (k**2 - 1) / (8 k) if k is odd. In a ring of two, a
    router has one link and the mean route is 1 / 2 hop.
    """
    routers = math.prod(size)
    load = max(0.5 if k == 2 else k / 8 if k % 2 == 0 else (k * k - 1) / (8 * k) for k in size)
    cluster = torus(*size, hosts_each=p)
    assert measured(cluster) == pytest.approx(load * p * p * routers * S / RATE, rel=1e-6)


@pytest.mark.parametrize(("a", "p", "h"), [(4, 2, 2), (3, 2, 1)])
@pytest.mark.parametrize("valiant", [False, True])
def test_dragonfly(a: int, p: int, h: int, valiant: bool) -> None:
    """Kim et al. 2008: a global link carries all (a p)**2 messages from one group to another, twice that with Valiant.

    A local link carries the messages between its two routers, and those to or from the h groups behind either.
    """
    g = a * h + 1
    world = (a * p) ** 2 * (2 if valiant else 1)
    fast = dragonfly(a, p, h, g, valiant=valiant, local_link=link("1000 GB/s", "0 s"))
    assert measured(fast) == pytest.approx(world * S / RATE, rel=1e-6)
    if not valiant:
        local = p * p * (1 + 2 * a * h)
        assert measured(dragonfly(a, p, h, g)) == pytest.approx(max(world, local) * S / RATE, rel=1e-6)


@pytest.mark.parametrize(("a", "h", "g"), [(4, 2, 5), (6, 2, 4)])
def test_dragonfly_of_fewer_groups_shares_more_links(a: int, h: int, g: int) -> None:
    copies = a * h // (g - 1)
    cluster = dragonfly(a, 2, h, g, local_link=link("1000 GB/s", "0 s"))
    assert measured(cluster) == pytest.approx((2 * a) ** 2 / copies * S / RATE, rel=1e-6)


def test_valiant_spreads_traffic_between_two_groups_over_all_others() -> None:
    """Group i sends to group i + 1: one link carries it all on minimal routes, each link 2 / (g - 2) with Valiant."""
    a, p, h, g = 4, 2, 2, 9
    src = np.arange(g * a * p)
    dst = (src + a * p) % len(src)
    for valiant, load in ((False, a * p), (True, 2 * a * p / (g - 2))):
        cluster = dragonfly(a, p, h, g, valiant=valiant, local_link=link("1000 GB/s", "0 s"))
        flows = route_flows(cluster, src, dst, np.full(len(src), S))
        assert flows.finish.max() == pytest.approx(load * S / RATE, rel=1e-6)


@pytest.mark.parametrize(("leaves", "p", "spines", "h"), [(2, 2, 2, 2), (3, 2, 2, 1)])
def test_dragonfly_plus(leaves: int, p: int, spines: int, h: int) -> None:
    """A global link carries all messages from one group to another; a link of a leaf its share of all that leave it."""
    g = spines * h + 1
    n = g * leaves * p
    world, local = (leaves * p) ** 2, p * (n - p) / spines
    fast = dragonfly_plus(leaves, p, spines, h, g, local_link=link("1000 GB/s", "0 s"))
    assert measured(fast) == pytest.approx(world * S / RATE, rel=1e-6)
    assert measured(dragonfly_plus(leaves, p, spines, h, g)) == pytest.approx(max(world, local) * S / RATE, rel=1e-6)
    around = dragonfly_plus(leaves, p, spines, h, g, valiant=True, local_link=link("1000 GB/s", "0 s"))
    assert measured(around) == pytest.approx(2 * world * S / RATE, rel=1e-6)


@pytest.mark.parametrize(("size", "cables", "p"), [([4, 4], [1, 1], 2), ([6, 3], [2, 1], 1), ([2, 3, 4], [1, 1, 1], 2)])
def test_hyperx(size: list[int], cables: list[int], p: int) -> None:
    """Ahn et al. 2009: a cable of dimension d carries p * p * routers / (S_d K_d) messages."""
    load = max(p * p * math.prod(size) / (n * k) for n, k in zip(size, cables, strict=True))
    assert measured(hyperx(size, cables, p)) == pytest.approx(load * S / RATE, rel=1e-6)


@pytest.mark.parametrize(("nodes", "gpus"), [(4, 2), (6, 8)])
@pytest.mark.parametrize("nvlink", [3.0, 0.5])
def test_rail_only(nodes: int, gpus: int, nvlink: float) -> None:
    """A NIC carries what all GPUs of its node send to its rail; NVLink what a GPU sends to the other rails."""
    expected = max(gpus * (nodes - 1), (gpus - 1) * nodes / nvlink) * S / RATE
    assert measured(rail_only(nodes, gpus, nvlink)) == pytest.approx(expected, rel=1e-6)


def test_rail_only_with_few_spines() -> None:
    """Each rail's leaf of 2 nodes sends 2 * gpus * (nodes - 2) messages up over its 1 cable."""
    cluster = rail_only(8, 2, nodes_per_leaf=2, spines_per_rail=1, uplink=SLOW)
    assert measured(cluster) == pytest.approx(2 * 2 * 6 * S / RATE, rel=1e-6)


@pytest.mark.parametrize(("nodes", "trays", "gpus"), [(4, 2, 4), (3, 6, 2)])
def test_nvlink_domain(nodes: int, trays: int, gpus: int) -> None:
    """With one leaf per rack, g GPUs send over 2 uplinks. With rails, each rail leaf carries its share."""
    g, n = trays * gpus, nodes * trays * gpus
    leaf = racks(nodes, trays, gpus, kind="leaf_spine", nodes_per_leaf=trays, spines=2)
    assert measured(leaf) == pytest.approx(g * (n - g) / 2 * S / RATE, rel=1e-6)
    rails = racks(nodes, trays, gpus, kind="rail_optimised", nodes_per_pod=trays, spines=2)
    assert measured(rails) == pytest.approx(g * (n - g) / (2 * gpus) * S / RATE, rel=1e-6)


@pytest.mark.parametrize("k", [6, 9])
def test_graph_of_a_ring_is_the_torus_of_one_dimension(k: int) -> None:
    names = [f"s{i}" for i in range(k)]
    ring = graph(dict.fromkeys(names, 1), list(zip(names, names[1:] + names[:1], strict=True)))
    load = k * k / 8 if k % 2 == 0 else (k * k - 1) / 8
    assert measured(ring) == pytest.approx(load * S / RATE, rel=1e-6)
    assert measured(torus(k)) == pytest.approx(load * S / RATE, rel=1e-6)


@pytest.mark.parametrize("spines", [2, 4])
def test_graph_of_leaves_and_spines_is_the_leaf_spine_fabric(spines: int) -> None:
    leaves = {f"leaf{i}": 4 for i in range(4)}
    links = [(leaf, f"spine{s}") for leaf in leaves for s in range(spines)]
    same = bed(16, kind="leaf_spine", nodes_per_leaf=4, spines=spines, uplink=SLOW)
    expected = 4 * 12 / spines * S / RATE
    assert measured(graph(leaves, links)) == pytest.approx(expected, rel=1e-6)
    assert measured(same) == pytest.approx(expected, rel=1e-6)


def test_graph_of_a_torus_is_bound_by_its_bisection() -> None:
    """On a square torus all shortest paths load links as evenly as dimension order: n**2 / 4 pairs cross 2 k cables."""
    k = 4
    nodes, links = grid_graph(k, k)
    assert measured(graph(nodes, links)) == pytest.approx((k * k) ** 2 / 4 / (2 * k) * S / RATE, rel=1e-6)


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("routing", ["split", "ecmp", "adaptive"])
def test_folding_changes_no_result(name: str, routing: str) -> None:
    cluster = SMALL[name](routing=routing)
    n = cluster.n_gpus
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]
    size = S * np.random.default_rng(0).integers(1, 3, size=len(src))
    folded, plain = (route_flows(cluster, src, dst, size, folding=on) for on in (True, False))
    assert folded.finish[folded.folded.colour] == pytest.approx(plain.finish[plain.folded.colour], rel=1e-9)
    assert folded.bytes_by_kind == pytest.approx(plain.bytes_by_kind, rel=1e-12)
