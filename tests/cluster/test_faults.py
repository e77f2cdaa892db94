"""Links that are slower or down: how they are named, and how traffic avoids them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from dessim.cluster import Cluster, load_cluster
from dessim.cluster.faults import find_links
from dessim.cluster.routing.policy import Routing
from dessim.cluster.routing.trees import Trees
from dessim.cluster.tree_routes import tree_routes
from dessim.errors import CapacityError, ClusterError
from dessim.sim.fluid.flows import incidence, route_flows
from dessim.sim.fluid.maxmin import max_min_rates
from tests.cluster.small_clusters import build, clusters, hosts, link


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_the_links_of_the_fabric_come_first(cluster: Cluster) -> None:
    """`Cluster.across` relies on this to tell whether a link of the fabric is down."""
    inside = [k.startswith(("nvlink", "pcie", "socket", "nic")) for k in cluster.links.kinds]
    assert np.array(inside)[cluster.links.kind].tolist() == [
        i >= cluster.wiring.first_server_link for i in range(len(cluster.links))
    ]


def two_levels(**fabric: Any) -> Cluster:
    """16 hosts on 4 leaves under 4 spines."""
    data = hosts(**{"kind": "leaf_spine", "nodes_per_leaf": 4, "spines": 4, "uplink": link(), **fabric})
    data["node"]["count"] = 16
    return build(data)


def names(cluster: Cluster, name: str) -> list[str]:
    return [cluster.links.name(int(i)) for i in find_links(cluster.links, name, Path("x.toml"))]


def test_links_are_found_by_name() -> None:
    cluster = load_cluster("h100-8x_rail_128")
    assert names(cluster, "leaf3 -> spine1") == ["leaf3 -> spine1"]
    assert names(cluster, "leaf3<->spine1") == ["leaf3 -> spine1", "spine1 -> leaf3"]
    assert len(names(cluster, "spine5")) == 2 * 32
    assert names(cluster, "node2/nic7") == [
        "gpu23 -> node2/nic7",
        "node2/nic7 -> gpu23",
        "node2/nic7 -> leaf7",
        "leaf7 -> node2/nic7",
    ]
    assert len(names(cluster, "node127/nvswitch")) == 16


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spin5", "nothing is called 'spin5'; did you mean 'spine5'[?] there are gpu0 to gpu1023, .*spine0 to spine15"),
        ("spine16", "nothing is called 'spine16'; there are"),
        ("node2/nics7", "did you mean 'node2/nic7'"),
        ("node2/nic8", "nothing is called 'node2/nic8'; there are .*node0/nic0 to node127/nic7"),
        ("node2", "nothing is called 'node2'; there are"),
        ("leaf3 -> leaf4", "leaf3 has no link to leaf4; it has links to spine0, .* and 40 more"),
        ("leaf3 -> spine1 -> leaf2", 'write "leaf3 -> spine1"'),
        ("", "nothing is called ''"),
    ],
)
def test_a_name_that_is_not_a_link_is_explained(name: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        load_cluster("h100-8x_rail_128").with_links([(name, 0.0)])


def test_changes_are_shares_of_the_capacity_and_the_last_one_counts() -> None:
    cluster = two_levels()
    spine = find_links(cluster.links, "spine2", cluster.path)
    changed = cluster.with_links([("spine2", 0.0), ("leaf0 -> spine2", 0.25), ([0], 1.0)])
    ratio = changed.links.capacity / cluster.links.capacity
    assert ratio[spine].tolist() == [0.25, *[0.0] * 7]
    assert np.count_nonzero(ratio != 1) == 8
    assert changed.links.any_down and not cluster.links.any_down and not changed.links.uniform_capacity
    assert not cluster.with_links([("spine2", 0.5)]).links.any_down
    with pytest.raises(ClusterError, match="a share of 2 of a link; write 0"):
        cluster.with_links([("spine2", 2.0)])
    with pytest.raises(ClusterError, match="a share of nan"):
        cluster.with_links([("spine2", float("nan"))])
    with pytest.raises(ClusterError, match=r"a link id is outside 0\.\.63"):
        cluster.with_links([([64], 0.0)])


def test_split_traffic_avoids_a_spine_that_one_end_cannot_use() -> None:
    """No traffic goes up to a spine from which it could not come down."""
    cluster = two_levels().with_links([("spine1 -> leaf3", 0.0)])
    routes = cluster.routes([0, 0], [15, 11])
    names_ = [cluster.links.name(int(i)) for i in routes.link[routes.flow == 0]]
    between = [name for name in names_ if "spine" in name]
    assert between == [hop for s in (0, 2, 3) for hop in (f"leaf0 -> spine{s}", f"spine{s} -> leaf3")]
    assert routes.weight[routes.flow == 0].tolist() == pytest.approx([1, *[1 / 3] * 6, 1])
    assert routes.weight[routes.flow == 1].tolist() == pytest.approx([1, *[1 / 4] * 8, 1])


def test_a_flow_without_a_route_is_named() -> None:
    cluster = two_levels().with_links([(f"leaf2 -> spine{s}", 0.0) for s in range(4)])
    assert len(cluster.routes([0, 8], [8, 9]).link)  # into leaf 2 and inside it
    with pytest.raises(ClusterError, match=r"gpu9 cannot reach gpu0: leaf2 -> spine0 is down, and no route avoids it"):
        cluster.routes([0, 9], [8, 0])
    with pytest.raises(ClusterError, match=r"gpu3 cannot reach gpu0: gpu3 -> leaf0 is down"):
        two_levels().with_links([("gpu3", 0.0)]).routes([3], [0])


@pytest.mark.parametrize("policy", ["static", "ecmp"])
def test_only_flows_whose_route_is_down_move(policy: str) -> None:
    cluster = replace(load_cluster("bench/two_level_1024"), routing=Routing(policy, 7))
    broken, hosts_ = cluster.with_links([("spine5", 0.0)]), np.arange(1024)
    before, after = (c.routes(hosts_, (hosts_ + 512) % 1024) for c in (cluster, broken))
    lost = np.isin(before.link, find_links(cluster.links, "spine5", cluster.path))
    assert lost.any()
    moved = before.link != after.link
    assert moved.tolist() == lost.tolist()
    # Static routing moves them all to the next spine; a hash spreads them over the remaining ones.
    spines = {cluster.links.name(int(i)).split(" -> ")[1] for i in after.link[moved]} - {f"leaf{i}" for i in range(64)}
    assert spines == {"spine6"} if policy == "static" else len(spines) > 10


@pytest.mark.parametrize("policy", ["static", "split", "ecmp", "adaptive"])
def test_the_other_cores_carry_the_traffic_of_one_that_is_down(policy: str) -> None:
    """In a fat tree of 16 hosts, a shift by half crosses the cores, one in four of which is down."""
    table = {"nodes_per_leaf": 2, "leaves_per_pod": 2, "spines_per_pod": 2, "cores_per_spine": 2, "uplink": link()}
    data = hosts(kind="fat_tree", routing=policy, **table)
    data["node"]["count"] = 16
    cluster = build(data).with_links([("core3", 0.0)])
    gpus = np.arange(16)
    routes = cluster.routes(gpus, (gpus + 8) % 16)
    load = np.bincount(routes.link, routes.weight, minlength=len(cluster.links))
    assert load[find_links(cluster.links, "core3", cluster.path)].max() == 0
    cores = load[cluster.links.of_kind("spine_up")].reshape(4, 4)
    assert cores.sum(axis=1) == pytest.approx(4)
    assert cores.max() == pytest.approx(4 / 3) if policy == "split" else cores.max() >= 2
    if policy in ("static", "adaptive"):
        assert cores.max() == 2


def test_slower_twins_and_all_links_give_the_same_rates() -> None:
    cluster = two_levels().with_links([("leaf1 -> spine2", 0.3), ("spine0", 0.7)])
    src, dst = np.divmod(np.arange(256), 16)
    src, dst = src[src != dst], dst[src != dst]
    without_twins, _, _ = incidence(cluster, src, dst)
    routes = cluster.routes(src, dst)
    every = replace(without_twins, flow=routes.flow, link=routes.link, weight=routes.weight)
    assert len(without_twins.link) < len(every.link)
    assert max_min_rates(without_twins)[0] == pytest.approx(max_min_rates(every)[0], rel=1e-12)


@pytest.mark.parametrize("nodes_per_leaf", [1, 16])
def test_one_spine_of_16_makes_a_full_exchange_16_15_slower(nodes_per_leaf: int) -> None:
    """All pairs with split routing just fill the uplinks; then one in 16 of these is down."""
    n = 4 * nodes_per_leaf
    crossing = (n - nodes_per_leaf) / (n - 1)
    uplink = link(f"{50 * crossing * nodes_per_leaf / 16!r} GB/s", "0 s")
    data = hosts(kind="leaf_spine", nodes_per_leaf=nodes_per_leaf, spines=16, uplink=uplink)
    data["node"].update(count=n, nic=link("50 GB/s", "0 s"))
    cluster = build(data)
    src, dst = np.divmod(np.arange(n * n), n)
    src, dst = src[src != dst], dst[src != dst]

    def makespan(machine: Cluster) -> float:
        return float(route_flows(machine, src, dst, np.full(len(src), 1e9 / n)).finish.max())

    assert makespan(cluster) == pytest.approx(1e9 / n * (n - 1) / 50e9, rel=1e-9)
    assert makespan(cluster.with_links([("spine5", 0.0)])) / makespan(cluster) == pytest.approx(16 / 15, rel=1e-9)
    # Halving one of 16 costs more: flows split evenly, so all wait for the slow one.
    assert makespan(cluster.with_links([("spine5", 0.5)])) / makespan(cluster) == pytest.approx(2, rel=1e-9)


def test_trees_avoid_a_spine_that_is_down() -> None:
    reduces = {"ports": 64, "latency": "0 us", "source": "test", "reduces": True}
    cluster = two_levels(switch=reduces)
    everyone = Trees.of(np.arange(16)[None, :], np.arange(16)[None, :])
    routes = tree_routes(cluster.with_links([("spine1", 0.0)]), everyone)
    uplinks = cluster.links.of_kind("leaf_up").reshape(4, 4)
    load = np.bincount(routes.link, routes.weight, minlength=len(cluster.links))[uplinks]
    assert load == pytest.approx(np.tile([1 / 3, 0, 1 / 3, 1 / 3], (4, 1)))
    with pytest.raises(ClusterError, match="gpu0 cannot reach gpu0: gpu5 -> leaf1 is down"):
        tree_routes(cluster.with_links([("gpu5", 0.0)]), everyone)


def test_listing_routes_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dessim.cluster.routing.policy._MAX_LISTED_LINKS", 10)
    with pytest.raises(CapacityError, match="more than 10 links for 2 flows; choose ecmp or adaptive routing"):
        two_levels().with_links([("spine1", 0.0)]).routes([0, 1], [15, 14])
